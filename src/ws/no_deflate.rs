//! The extension in builds without the feature `compression`. It cannot be configured, so no
//! value of these types exists.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use getty_core::driver::SharedForm;
use http::{HeaderMap, HeaderValue};

use super::{
    error::WsError,
    message::{Kind, Messages},
    transport::{Limits, Role},
};

#[derive(Clone, Debug)]
pub(super) enum Deflate {}

#[derive(Clone, Copy, Debug)]
pub(super) enum WsDeflate {}

#[derive(Debug)]
pub(super) enum PerMessage {}

pub(super) struct Inflated {
    pub(super) taken: usize,
    pub(super) appended: usize,
    pub(super) has_more: bool,
}

impl Deflate {
    pub(super) fn accept(&self, _: &HeaderMap) -> Option<(WsDeflate, HeaderValue)> {
        match *self {}
    }

    pub(super) fn offer(&self) -> HeaderValue {
        match *self {}
    }

    pub(super) fn confirm(&self, _: &HeaderMap) -> Result<Option<WsDeflate>, &'static str> {
        match *self {}
    }

    pub(super) fn open(&self, _: WsDeflate, _: Role) -> PerMessage {
        match *self {}
    }
}

impl PerMessage {
    pub(super) fn poll_budget(&mut self, _: &mut Context<'_>) -> Poll<()> {
        match *self {}
    }

    pub(super) fn begin(&mut self) -> bool {
        match *self {}
    }

    pub(super) fn is_inflating(&self) -> bool {
        match *self {}
    }

    pub(super) fn discard(&mut self) {
        match *self {}
    }

    pub(super) fn check_length(&mut self, _: u64, _: Limits) -> Result<usize, WsError> {
        match *self {}
    }

    pub(super) fn unmasked(&self) -> usize {
        match *self {}
    }

    pub(super) fn inflate(
        &mut self,
        _: &[u8],
        _: &mut BytesMut,
        _: usize,
        _: Limits,
    ) -> Result<Inflated, WsError> {
        match *self {}
    }

    pub(super) fn finish(
        &mut self,
        _: &mut BytesMut,
        _: usize,
        _: Limits,
    ) -> Result<usize, WsError> {
        match *self {}
    }

    pub(super) fn threshold(&self) -> usize {
        match *self {}
    }

    pub(super) fn shared_form(&self, _: Messages) -> Option<SharedForm> {
        match *self {}
    }

    pub(super) fn compress<R>(&mut self, _: &[u8], _: impl FnOnce(&[u8]) -> R) -> Option<R> {
        match *self {}
    }

    pub(super) fn prepare(&mut self, _: Kind, _: &[u8]) -> Bytes {
        match *self {}
    }
}
