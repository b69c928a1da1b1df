//! A message that many sessions send, encoded once for each codec configuration.

use std::{
    fmt,
    num::NonZeroU64,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;

use super::WeightFn;
use crate::sync::Mutex;

/// Identifies a configuration of a codec. Sessions with the same id encode a message to the
/// same bytes.
///
/// `CodecLayer::new` creates one, which all sessions of the layer and of its clones share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodecId(NonZeroU64);

impl CodecId {
    /// Returns an id that no other call has returned.
    #[must_use]
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let next = NonZeroU64::new(NEXT.fetch_add(1, Relaxed));
        Self(next.unwrap_or_else(|| unreachable!("2^64 ids cannot be used up")))
    }
}

/// Identifies the form in which a transport sends shared messages. Transports with the same
/// form convert an encoded message to the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SharedForm {
    id: CodecId,
    variant: u32,
}

impl SharedForm {
    /// Creates the form of a transport whose settings have the unique id `id`. `variant`
    /// distinguishes transports with the same settings that convert messages differently.
    #[must_use]
    pub const fn new(id: CodecId, variant: u32) -> Self {
        Self { id, variant }
    }
}

/// A message that many sessions send, with its encodings.
pub struct SharedMessage<Out> {
    /// Size of the message in bytes, if its type determines it.
    size: Option<u32>,
    /// Encoding by the first codec. Usually there is no other, and deliveries then never lock.
    first: OnceLock<(CodecId, Bytes)>,
    /// First conversion of an encoding by a transport.
    prepared: OnceLock<Box<Prepared>>,
    rest: Mutex<Rest<Out>>,
}

/// An encoding that transports of one form have converted.
struct Prepared {
    codec: CodecId,
    form: SharedForm,
    bytes: Bytes,
}

impl Prepared {
    fn get(&self, codec: CodecId, form: SharedForm) -> Option<Bytes> {
        (self.codec == codec && self.form == form).then(|| self.bytes.clone())
    }
}

struct Rest<Out> {
    message: Out,
    clone: fn(&Out) -> Out,
    others: Vec<(CodecId, Bytes)>,
    others_prepared: Vec<Prepared>,
}

impl<Out> SharedMessage<Out> {
    /// Creates a shared message.
    pub fn new(message: Out) -> Self
    where
        Out: Clone,
    {
        Self::weighed(message, None)
    }

    /// Creates a shared message whose size in bytes is determined by `weigh`.
    #[doc(hidden)]
    pub fn weighed(message: Out, weigh: Option<WeightFn<Out>>) -> Self
    where
        Out: Clone,
    {
        let bytes = weigh.map(|weigh| weigh(&message));
        Self {
            size: bytes.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
            first: OnceLock::new(),
            prepared: OnceLock::new(),
            rest: Mutex::new(Rest {
                message,
                clone: Out::clone,
                others: Vec::new(),
                others_prepared: Vec::new(),
            }),
        }
    }

    /// Returns the size of the message, or else of its first encoding. Returns `None` if neither
    /// is known.
    pub(in crate::session) fn size(&self) -> Option<u32> {
        let encoded = || Some(self.first.get()?.1.len());
        let encoded = || encoded().map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
        self.size.or_else(encoded)
    }

    /// Returns a clone of the message for a session that encodes it itself.
    pub fn message(&self) -> Out {
        let rest = self.rest.lock();
        (rest.clone)(&rest.message)
    }

    /// Returns the encoding by the codec `id`. Calls `encode` unless that codec has encoded the
    /// message before. Other sessions with the same codec wait meanwhile.
    ///
    /// # Errors
    ///
    /// Returns the error of `encode`. Nothing is stored then.
    pub fn encoded<E>(
        &self,
        id: CodecId,
        encode: impl FnOnce(Out) -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        if let Some((_, bytes)) = self.first.get().filter(|(first, _)| *first == id) {
            return Ok(bytes.clone());
        }
        let mut rest = self.rest.lock();
        let known = self.first.get().into_iter().chain(&rest.others);
        if let Some((_, bytes)) = known.into_iter().find(|(known, _)| *known == id) {
            return Ok(bytes.clone());
        }
        let bytes = encode((rest.clone)(&rest.message))?;
        if self.first.set((id, bytes.clone())).is_err() {
            rest.others.push((id, bytes.clone()));
        }
        Ok(bytes)
    }

    /// Returns the encoding by the codec `codec` in the form `form`. Calls `prepare` unless a
    /// transport of that form has prepared it before. Other sessions with the same form wait
    /// meanwhile.
    #[cold]
    pub fn prepared(
        &self,
        codec: CodecId,
        form: SharedForm,
        prepare: impl FnOnce() -> Bytes,
    ) -> Bytes {
        if let Some(bytes) = self.prepared.get().and_then(|it| it.get(codec, form)) {
            return bytes;
        }
        let mut rest = self.rest.lock();
        let first = self.prepared.get().map(|first| &**first).into_iter();
        let mut known = first.chain(&rest.others_prepared);
        if let Some(bytes) = known.find_map(|known| known.get(codec, form)) {
            return bytes;
        }
        let bytes = prepare();
        let new = |bytes| Prepared { codec, form, bytes };
        if self.prepared.set(Box::new(new(bytes.clone()))).is_err() {
            rest.others_prepared.push(new(bytes.clone()));
        }
        bytes
    }
}

impl<Out> fmt::Debug for SharedMessage<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMessage").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;

    fn encode(message: &'static str) -> Result<Bytes, ()> {
        Ok(Bytes::from_static(message.as_bytes()))
    }

    #[test]
    fn each_codec_encodes_once() {
        let (shared, one, other) = (
            SharedMessage::new("hello"),
            CodecId::unique(),
            CodecId::unique(),
        );
        assert_eq!(shared.encoded(one, |_| Err(())), Err(()));
        for id in [one, other] {
            assert_eq!(shared.encoded(id, encode).unwrap(), "hello");
            let again = shared.encoded(id, |_| -> Result<_, ()> { panic!("encoded twice") });
            assert_eq!(again.unwrap(), "hello");
        }
    }

    #[test]
    fn each_form_is_prepared_once() {
        let (shared, one, other) = (
            SharedMessage::new("hello"),
            CodecId::unique(),
            CodecId::unique(),
        );
        let keys = [(one, 1), (one, 2), (other, 1)];
        for (n, (codec, variant)) in (0_u8..).zip(keys) {
            let form = SharedForm::new(one, variant);
            let bytes = Bytes::from(vec![n]);
            assert_eq!(shared.prepared(codec, form, || bytes.clone()), bytes);
            let again = shared.prepared(codec, form, || panic!("prepared twice"));
            assert_eq!(again, bytes);
        }
    }

    #[test]
    fn message_that_is_not_sync_can_be_shared() {
        fn check<T: Send + Sync>() {}
        check::<SharedMessage<std::cell::Cell<u8>>>();
    }
}
