//! Stacks for a given handler and any byte stream.

use std::future::Ready;

use bytes::Bytes;
use getty::{BoxError, Pipeline};
use getty_benches::{
    frames::Form,
    server::{
        codec,
        getty::{Handler, bare_around, full_around},
        ws::getty_around,
    },
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Response future of the handlers.
pub(crate) type Reply = Ready<Result<Bytes, BoxError>>;

/// A byte stream.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// A stack for a given handler and any byte stream.
pub(crate) trait Stack {
    const NAME: &'static str;
    /// Forms of the client's and of the server's frames.
    const FORMS: [Form; 2] = [Form::Length, Form::Length];

    fn around<T: Stream>(handler: impl Handler<Bytes>) -> impl Pipeline<T>;
}

pub(crate) struct Bare;

impl Stack for Bare {
    const NAME: &'static str = "bare";

    fn around<T: Stream>(handler: impl Handler<Bytes>) -> impl Pipeline<T> {
        bare_around(codec::length_delimited(), handler)
    }
}

pub(crate) struct Full;

impl Stack for Full {
    const NAME: &'static str = "full";

    fn around<T: Stream>(handler: impl Handler<Bytes>) -> impl Pipeline<T> {
        full_around(codec::length_delimited(), handler)
    }
}

pub(crate) struct WebSocket;

impl Stack for WebSocket {
    const NAME: &'static str = "WebSocket";
    const FORMS: [Form; 2] = [Form::Masked, Form::Unmasked];

    fn around<T: Stream>(handler: impl Handler<Bytes>) -> impl Pipeline<T> {
        getty_around(handler)
    }
}
