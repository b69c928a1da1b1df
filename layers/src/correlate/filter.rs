//! Filter that passes responses to the requests that wait for them.

use std::{fmt, sync::Arc};

use getty_core::{
    ConnectionHandle,
    correlate::{Correlator, Matching},
};

use crate::filter_map::MessageFilter;

/// Filter that removes responses from the decoded messages and completes their requests.
pub struct ResponseFilter<In, Out, M> {
    shared: Arc<Correlator<In, Out>>,
    matching: M,
    handle: ConnectionHandle,
}

impl<In, Out, M> ResponseFilter<In, Out, M> {
    pub(super) const fn new(
        shared: Arc<Correlator<In, Out>>,
        matching: M,
        handle: ConnectionHandle,
    ) -> Self {
        Self {
            shared,
            matching,
            handle,
        }
    }
}

impl<In, Out, M: Matching<In, Out>> MessageFilter<In> for ResponseFilter<In, Out, M> {
    #[inline]
    fn filter(&mut self, message: In) -> Option<In> {
        match self.matching.response_to(&message) {
            Some(which) => self.shared.deliver(which, message, &self.handle),
            None => Some(message),
        }
    }
}

impl<In, Out, M: fmt::Debug> fmt::Debug for ResponseFilter<In, Out, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFilter")
            .field("matching", &self.matching)
            .field("connection", &self.handle)
            .finish_non_exhaustive()
    }
}
