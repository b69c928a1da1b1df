//! Settings of both layers, and the run of one dialogue.

use std::{
    any::type_name,
    fmt,
    future::{Future, poll_fn},
    marker::PhantomData,
    pin::pin,
    task::Poll,
    time::Duration,
};

use getty_core::{Close, CloseReason, Connection, Panic, hooks::Contained, internal::PanicGuard};
use tokio::time::Instant;
use tower::BoxError;

use super::{dialogue::Opening, error::OpeningError};
use crate::{
    codec::DEFAULT_MAX_FRAME,
    transport::{Interrupted, uninterrupted},
};

/// Default time for a dialogue.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Codec, function and limits of the dialogues of one layer.
pub(super) struct Settings<T, C, F> {
    codec: Contained<C>,
    open: Contained<F>,
    pub(super) timeout: Duration,
    pub(super) max_frame: usize,
    transport: PhantomData<fn(T)>,
}

impl<T, C, F> Settings<T, C, F> {
    pub(super) const fn new(codec: C, open: F) -> Self {
        Self {
            codec: Contained::new(codec),
            open: Contained::new(open),
            timeout: TIMEOUT,
            max_frame: DEFAULT_MAX_FRAME,
            transport: PhantomData,
        }
    }
}

impl<T, C: Clone, F: Clone> Settings<T, C, F> {
    /// Returns the future of a dialogue. Its deadline counts from now.
    pub(super) fn start<Fut, U>(
        &self,
        connection: Connection<T>,
    ) -> impl Future<Output = Result<Connection<U>, BoxError>> + use<T, C, F, Fut, U>
    where
        F: Fn(Opening<T, C>) -> Fut,
        Fut: Future<Output = Result<Connection<U>, BoxError>>,
    {
        let opening = Opening::new(connection, self.codec.clone(), self.max_frame);
        let deadline = Instant::now().checked_add(self.timeout);
        run(opening, self.open.clone(), self.timeout, deadline)
    }
}

/// Runs a dialogue until its function returns, the deadline passes, or the connection is
/// closed.
async fn run<T, C, F, Fut, U>(
    opening: Opening<T, C>,
    open: Contained<F>,
    timeout: Duration,
    deadline: Option<Instant>,
) -> Result<Connection<U>, BoxError>
where
    F: Fn(Opening<T, C>) -> Fut,
    Fut: Future<Output = Result<Connection<U>, BoxError>>,
{
    let handle = opening.handle().clone();
    // Must be declared before the dialogue, which a panic drops together with the connection.
    let guard = PanicGuard::new(handle.clone());
    let dialogue = async move { Contained::new(open(opening)).await };
    // It is dropped at the end of this function, so that a reason is recorded before.
    let mut dialogue = pin!(Contained::new(dialogue));
    let caught = poll_fn(|cx| match Panic::catch(|| dialogue.as_mut().poll(cx)) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    });
    match uninterrupted(&handle, deadline, caught).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            guard.caught(panic.clone());
            Err(panic.into())
        }
        Err(Interrupted::TimedOut) => {
            let error = OpeningError::TimedOut(timeout);
            let close = Close::new(CloseReason::HandshakeTimeout);
            handle.close_with(close.with_source(error.clone()));
            Err(error.into())
        }
        Err(Interrupted::Closed) => Err(OpeningError::Cancelled.into()),
    }
}

impl<T, C: Clone, F: Clone> Clone for Settings<T, C, F> {
    fn clone(&self) -> Self {
        Self {
            codec: self.codec.clone(),
            open: self.open.clone(),
            ..*self
        }
    }
}

impl<T, C: fmt::Debug, F> fmt::Debug for Settings<T, C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("codec", &self.codec)
            .field("open", &format_args!("{}", type_name::<F>()))
            .field("timeout", &self.timeout)
            .field("max_frame", &self.max_frame)
            .finish()
    }
}
