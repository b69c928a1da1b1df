//! Settings that were changed while the session is open.

use tokio::time::Instant;

use super::{PollState, SessionLoop};
use crate::session::{
    framed_transport::FramedTransport,
    stack::{MessageStack, StackSource},
};

impl<S, W, R> SessionLoop<S, W, R>
where
    S: MessageStack<W>,
    W: FramedTransport,
    R: StackSource<S>,
{
    /// Runs the checks of layers, which read their settings, and applies the maximum frame.
    // (design.md: How does a setting change while a session is open?)
    #[cold]
    pub(super) fn apply_settings(&mut self, poll: &PollState) {
        if !self.is_live() {
            return;
        }
        if self.wire.driver().pending_max_frame().is_some() {
            // The flag is of the last poll: a frame that was incomplete then may be decoded since.
            let has_decoded = poll.decoded || self.messages_in > 0;
            let has_begun = !has_decoded && self.wire.driver().is_incomplete();
            self.reader.apply_max_frame(&mut self.wire, has_begun);
        }
        self.wire.driver().run_checks(Instant::now());
    }
}
