//! State of the extension in one session, and the compression of one message.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use getty_core::driver::SharedForm;

pub(in crate::ws) use super::context::Inflated;
use super::{
    context::{Failure, Inflation, compress, compress_with_context},
    negotiation::WsDeflate,
    settings::Deflate,
};
use crate::{
    compress::{
        contexts::Claim,
        work::Work,
        zlib::{Configuration, inflate_work},
    },
    ws::{
        error::WsError,
        message::{Kind, Messages},
        transport::{Limits, Role},
    },
};

/// Number of bytes inflated at a time. The session may then do other work.
const STEP: usize = 64 * 1024;
/// First bit of a frame's header that marks its message as compressed.
const RSV1: u8 = 0x40;
/// Smallest window of a compressor.
const MIN_WINDOW_BITS: u8 = 9;

/// State of the extension in one session. An idle session holds neither compressor nor
/// inflater.
#[derive(Debug)]
pub(in crate::ws) struct PerMessage(Box<State>);

#[derive(Debug)]
struct State {
    deflate: Deflate,
    /// Base-2 logarithm of this side's window in bytes.
    window_bits: u8,
    /// `true` if messages that are sent may refer to earlier ones.
    takes_over: bool,
    /// Claim to the context of the messages that were sent.
    claim: Option<Claim>,
    /// `true` if compressed messages are ignored because the session closes.
    discards: bool,
    work: Work,
    /// Inflater of the message that is arriving.
    inflater: Option<Inflation>,
}

impl Deflate {
    /// Returns the state of a new session.
    pub(in crate::ws) fn open(&self, agreed: WsDeflate, role: Role) -> PerMessage {
        PerMessage::new(self.clone(), agreed, role)
    }
}

impl PerMessage {
    fn new(deflate: Deflate, agreed: WsDeflate, role: Role) -> Self {
        let (window_bits, without_context) = match role {
            Role::Server => (
                agreed.server_max_window_bits(),
                agreed.server_no_context_takeover(),
            ),
            Role::Client => (
                agreed.client_max_window_bits(),
                agreed.client_no_context_takeover(),
            ),
        };
        let takes_over = deflate.contexts().is_some() && !without_context;
        Self(Box::new(State {
            deflate,
            window_bits,
            takes_over,
            claim: None,
            discards: false,
            work: Work::new(),
            inflater: None,
        }))
    }

    /// Charges the work to tokio's cooperative budget. Returns `Pending` if the budget is used up.
    /// The task will then be woken.
    pub(in crate::ws) fn poll_budget(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.work.poll_charge(cx)
    }
}

/// Receiving direction.
impl PerMessage {
    /// Begins a compressed message. Returns `false` if the message will be ignored.
    pub(in crate::ws) fn begin(&mut self) -> bool {
        if !self.0.discards {
            self.0.inflater = Some(Inflation::begin());
        }
        !self.0.discards
    }

    /// Returns `true` while a compressed message arrives.
    pub(in crate::ws) const fn is_inflating(&self) -> bool {
        self.0.inflater.is_some()
    }

    /// Ignores the message that is arriving, and all further ones.
    pub(in crate::ws) fn discard(&mut self) {
        self.0.discards = true;
        self.end();
    }

    /// Ends the message, and returns the inflater to its thread.
    fn end(&mut self) {
        if let Some(inflater) = self.0.inflater.take() {
            inflater.put_back();
        }
    }

    /// Returns the length of the next frame if the compressed bytes of its message are within their
    /// limit. This limit exceeds the maximum of a message, because noise becomes slightly longer.
    pub(in crate::ws) fn check_length(
        &mut self,
        length: u64,
        limits: Limits,
    ) -> Result<usize, WsError> {
        let max = limits.message;
        let max_compressed = max.saturating_add(max / 8).saturating_add(64);
        let announced = self.0.inflater.as_ref().map_or(0, |it| it.announced);
        match usize::try_from(length) {
            Ok(length) if length > limits.frame => Err(WsError::TooLong {
                limit: limits.frame,
            }),
            Ok(length) if length <= max_compressed - announced => {
                if let Some(inflater) = &mut self.0.inflater {
                    inflater.announced += length;
                }
                Ok(length)
            }
            _ => Err(WsError::TooLong { limit: max }),
        }
    }

    /// Returns how many bytes at the start of the input are unmasked already.
    pub(in crate::ws) fn unmasked(&self) -> usize {
        self.0.inflater.as_ref().map_or(0, |it| it.unmasked)
    }

    /// Inflates `input`, which must be unmasked. Appends at most `room` bytes to `out`, and about
    /// 64 KiB per call.
    pub(in crate::ws) fn inflate(
        &mut self,
        input: &[u8],
        out: &mut BytesMut,
        room: usize,
        limits: Limits,
    ) -> Result<Inflated, WsError> {
        let Some(inflater) = &mut self.0.inflater else {
            return Err(WsError::InvalidDeflate);
        };
        let inflated = inflater
            .inflate(input, out, room, STEP)
            .map_err(|failure| error(failure, limits))?;
        inflater.unmasked = input.len() - inflated.taken;
        self.0
            .work
            .add(inflate_work(inflated.taken, inflated.appended));
        Ok(inflated)
    }

    /// Ends the message after its last frame. Returns the number of bytes that were appended to
    /// `out`. It is at most `room`.
    pub(in crate::ws) fn finish(
        &mut self,
        out: &mut BytesMut,
        room: usize,
        limits: Limits,
    ) -> Result<usize, WsError> {
        let finished = match &mut self.0.inflater {
            Some(inflater) => inflater.finish(out, room),
            None => Err(Failure::Invalid),
        };
        self.end();
        finished.map_err(|failure| error(failure, limits))
    }
}

/// Sending direction.
impl PerMessage {
    /// Returns the minimum length of a message that is compressed.
    #[inline]
    pub(in crate::ws) fn threshold(&self) -> usize {
        self.0.deflate.threshold()
    }

    /// Returns the form of this session's messages. All sessions that compress alike have the same
    /// form.
    pub(in crate::ws) fn shared_form(&self, messages: Messages) -> Option<SharedForm> {
        let messages = match messages {
            Messages::Binary => 0,
            Messages::Text => 1,
            Messages::Both => 2,
        };
        let variant = u32::from(self.0.window_bits) << 2 | messages;
        // With takeover each session has another window.
        let is_shared = self.0.window_bits >= MIN_WINDOW_BITS && !self.0.takes_over;
        is_shared.then(|| SharedForm::new(self.0.deflate.id(), variant))
    }

    /// Compresses `message` and passes the payload to `f`. Returns `None` if the message must be
    /// sent plain because the filter refuses it or because it would not become shorter.
    pub(in crate::ws) fn compress<R>(
        &mut self,
        message: &[u8],
        f: impl FnOnce(&[u8]) -> R,
    ) -> Option<R> {
        if !self.0.deflate.compresses(message) {
            return None;
        }
        self.0.work.add(message.len());
        if self.0.takes_over && self.0.window_bits >= MIN_WINDOW_BITS {
            let State {
                deflate,
                window_bits,
                claim,
                ..
            } = &mut *self.0;
            let contexts = deflate.contexts()?;
            let configuration = Configuration::for_takeover(deflate.level(), *window_bits);
            return compress_with_context(contexts, claim, configuration, message, f);
        }
        compress(self.configuration()?, message, f)
    }

    /// Compresses `message` for all sessions of the same form. Returns the first byte of the frame
    /// with its payload. Returns no bytes if the message must be sent plain.
    pub(in crate::ws) fn prepare(&mut self, kind: Kind, message: &[u8]) -> Bytes {
        if message.len() < self.threshold() {
            return Bytes::new();
        }
        let first = 0x80 | RSV1 | kind.tag();
        let prepared = self.compress(message, |payload| {
            let mut prepared = Vec::with_capacity(1 + payload.len());
            prepared.push(first);
            prepared.extend_from_slice(payload);
            prepared.into()
        });
        prepared.unwrap_or_default()
    }

    fn configuration(&self) -> Option<Configuration> {
        (self.0.window_bits >= MIN_WINDOW_BITS)
            .then(|| Configuration::for_messages(self.0.deflate.level(), self.0.window_bits))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let (Some(contexts), Some(claim)) = (self.deflate.contexts(), self.claim) {
            contexts.release(claim);
        }
    }
}

/// Returns the violation of the protocol for a failure to inflate.
const fn error(failure: Failure, limits: Limits) -> WsError {
    match failure {
        Failure::Invalid => WsError::InvalidDeflate,
        Failure::TooLong => WsError::TooLong {
            limit: limits.message,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_byte_costs_more_of_the_budget_than_a_plain_one() {
        let limits = Limits {
            message: 1 << 20,
            frame: 1 << 20,
        };
        let (agreed, _) =
            super::super::negotiation::accept(&mut std::iter::once(&b"permessage-deflate"[..]))
                .expect("it is acceptable");
        let mut session = PerMessage::new(Deflate::new(), agreed, Role::Server);
        assert!(session.begin());
        // Four empty blocks have 40 bits.
        let (blocks, mut out) = ([2, 8, 32, 128, 0].repeat(1_000), BytesMut::new());
        let inflated = session.inflate(&blocks, &mut out, 1 << 20, limits).unwrap();
        assert_eq!((inflated.taken, inflated.appended), (5_000, 0));
        assert_eq!(session.0.work.owed(), 8 * 5_000);
    }
}
