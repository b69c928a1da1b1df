//! Pool of compressors that sessions share.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

#[cfg(feature = "ws")]
use super::zlib::Configuration;
use super::zlib::Deflater;

/// Default maximum of contexts.
const DEFAULT_CONTEXTS: usize = 256;

/// Pool of compression contexts, shared by the sessions of one or several layers.
///
/// A session takes a context to compress what it writes, and returns it at once. The context
/// then remembers the session's latest bytes. If the session writes again, it usually gets the
/// same context, and similar messages need few bytes. If more sessions write than there are
/// contexts, the least recently used one is reset and given to another session. Both peers
/// continue to work, but the reset takes some microseconds, and the session's next bytes are
/// compressed without the earlier ones.
///
/// The contexts are allocated when they are first needed and stay allocated. One takes 165 KB
/// for deflate and zlib. For zstd it takes 1 MB at the default level and 2 MB at the highest.
/// The default is 256 contexts for each layer, which can take 42 MB for deflate. Each thread
/// may use one more for the time of a write. Snappy needs none.
///
/// Scope: the clones of a value share the contexts.
#[derive(Clone)]
pub struct Contexts(Arc<Mutex<Pool>>);

/// Claim of a session to the context that it has returned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    slot: u32,
    stamp: u64,
}

/// Context that a session uses now.
pub(crate) struct PooledContext {
    pub(crate) context: Box<Context>,
    slot: Option<u32>,
}

/// Compressor of one of the formats.
pub(crate) enum Context {
    Deflate(Deflater),
    #[cfg(feature = "zstd")]
    Zstd(super::zstd::Compressor),
}

impl Context {
    /// Returns the compressor of deflate, if this is one.
    #[cfg(feature = "ws")]
    pub(crate) const fn deflater(&mut self) -> Option<&mut Deflater> {
        match self {
            Self::Deflate(deflater) => Some(deflater),
            #[cfg(feature = "zstd")]
            Self::Zstd(_) => None,
        }
    }

    /// Begins with an empty window. A context of another format or configuration is replaced.
    #[cfg(feature = "ws")]
    pub(crate) fn restart(&mut self, configuration: Configuration) {
        match self {
            Self::Deflate(deflater) if deflater.configuration() == configuration => {
                deflater.reset();
            }
            other => *other = Self::Deflate(Deflater::new(configuration)),
        }
    }
}

/// Context that [`Contexts::take`] has found.
pub(crate) enum Taken {
    /// The context that the session has returned before. It has the session's window.
    Own(PooledContext),
    /// A context with the window of another session. It must be reset.
    Other(PooledContext),
    /// There is none. A new one should be created in this slot.
    None(Slot),
}

/// Slot for a new context. `None` is a context that will not be pooled.
pub(crate) struct Slot(Option<u32>);

impl Slot {
    pub(crate) fn fill(self, context: Context) -> PooledContext {
        PooledContext {
            context: Box::new(context),
            slot: self.0,
        }
    }
}

struct Pool {
    max: usize,
    slots: Vec<PoolSlot>,
    /// Ends of the list of slots with a context, in the order of their use.
    oldest: Option<u32>,
    newest: Option<u32>,
    stamp: u64,
}

struct PoolSlot {
    /// `None` while a session uses it.
    context: Option<Box<Context>>,
    /// Stamp of the claim, or 0 if the session has ended.
    stamp: u64,
    older: Option<u32>,
    newer: Option<u32>,
}

impl Contexts {
    /// Creates a pool of at most `max` contexts. With 0 no context is kept. Every flush then
    /// creates one, which takes longer than a reset.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Mutex::new(Pool {
            max: max.min(u32::MAX as usize),
            slots: Vec::new(),
            oldest: None,
            newest: None,
            stamp: 0,
        })))
    }

    /// Returns the maximum number of contexts.
    #[must_use]
    pub fn max(&self) -> usize {
        self.lock().max
    }

    /// Returns the number of contexts that are allocated.
    #[must_use]
    pub fn allocated(&self) -> usize {
        self.lock().slots.len()
    }

    pub(crate) fn take(&self, claim: Option<Claim>) -> Taken {
        self.lock().take(claim)
    }

    /// Puts back a context. Returns the claim that finds it again.
    pub(crate) fn put(&self, pooled: PooledContext) -> Option<Claim> {
        self.lock().put(pooled)
    }

    /// Gives up a claim, because its session has ended.
    pub(crate) fn release(&self, claim: Claim) {
        self.lock().release(claim);
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Contexts {
    /// Creates a pool of at most 256 contexts.
    fn default() -> Self {
        Self::new(DEFAULT_CONTEXTS)
    }
}

impl fmt::Debug for Contexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = self.lock();
        f.debug_struct("Contexts")
            .field("max", &pool.max)
            .field("allocated", &pool.slots.len())
            .finish()
    }
}

impl Pool {
    fn slot(&mut self, index: u32) -> &mut PoolSlot {
        &mut self.slots[index as usize]
    }

    fn take(&mut self, claim: Option<Claim>) -> Taken {
        if let Some(claim) = claim
            && self.slot(claim.slot).stamp == claim.stamp
            && let Some(pooled) = self.check_out(claim.slot)
        {
            return Taken::Own(pooled);
        }
        // A new context costs less than the loss of a session's window.
        let oldest = self.oldest;
        let is_free = oldest.is_some_and(|oldest| self.slot(oldest).stamp == 0);
        if !is_free && self.slots.len() < self.max {
            let index = u32::try_from(self.slots.len()).ok();
            self.slots.push(PoolSlot {
                context: None,
                stamp: 0,
                older: None,
                newer: None,
            });
            return Taken::None(Slot(index));
        }
        match oldest.and_then(|oldest| self.check_out(oldest)) {
            Some(pooled) => Taken::Other(pooled),
            None => Taken::None(Slot(None)),
        }
    }

    fn check_out(&mut self, index: u32) -> Option<PooledContext> {
        let context = self.slot(index).context.take()?;
        self.unlink(index);
        self.slot(index).stamp = 0;
        Some(PooledContext {
            context,
            slot: Some(index),
        })
    }

    fn put(&mut self, pooled: PooledContext) -> Option<Claim> {
        let index = pooled.slot?;
        self.stamp += 1;
        let (stamp, newest) = (self.stamp, self.newest.replace(index));
        let slot = self.slot(index);
        slot.context = Some(pooled.context);
        slot.stamp = stamp;
        slot.older = newest;
        match newest {
            Some(newest) => self.slot(newest).newer = Some(index),
            None => self.oldest = Some(index),
        }
        Some(Claim { slot: index, stamp })
    }

    fn release(&mut self, claim: Claim) {
        let index = claim.slot;
        if self.slot(index).stamp != claim.stamp {
            return;
        }
        self.unlink(index);
        let oldest = self.oldest.replace(index);
        let slot = self.slot(index);
        slot.stamp = 0;
        slot.newer = oldest;
        match oldest {
            Some(oldest) => self.slot(oldest).older = Some(index),
            None => self.newest = Some(index),
        }
    }

    fn unlink(&mut self, index: u32) {
        let slot = self.slot(index);
        let (older, newer) = (slot.older.take(), slot.newer.take());
        match older {
            Some(older) => self.slot(older).newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.slot(newer).older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::zlib::{Configuration, Deflater},
        *,
    };
    use crate::compress::Level;

    /// Takes a context as a session does. Returns its slot, and `true` if it is the session's.
    fn take(contexts: &Contexts, claim: Option<Claim>) -> (PooledContext, bool) {
        match contexts.take(claim) {
            Taken::Own(pooled) => (pooled, true),
            Taken::Other(pooled) => (pooled, false),
            Taken::None(slot) => {
                let deflater = Deflater::new(Configuration::for_stream(Level::FAST));
                (slot.fill(Context::Deflate(deflater)), false)
            }
        }
    }

    fn use_once(contexts: &Contexts, claim: Option<Claim>) -> (Option<Claim>, bool) {
        let (pooled, is_own) = take(contexts, claim);
        (contexts.put(pooled), is_own)
    }

    #[test]
    fn a_session_gets_its_context_until_others_have_used_all() {
        let contexts = Contexts::new(2);
        let (a, _) = use_once(&contexts, None);
        let (b, _) = use_once(&contexts, None);
        let (a, own) = use_once(&contexts, a);
        assert!(own);
        // B's is the least recently used.
        let (c, own) = use_once(&contexts, None);
        assert!(!own);
        assert!(use_once(&contexts, c).1);
        assert!(use_once(&contexts, a).1);
        assert!(!use_once(&contexts, b).1);
        assert_eq!(contexts.allocated(), 2);
    }

    #[test]
    fn the_context_of_a_session_that_has_ended_is_taken_first() {
        let contexts = Contexts::new(3);
        let (a, _) = use_once(&contexts, None);
        let (b, _) = use_once(&contexts, None);
        contexts.release(b.unwrap());
        contexts.release(b.unwrap());
        let (c, _) = use_once(&contexts, None);
        assert_eq!(contexts.allocated(), 2);
        assert!(use_once(&contexts, a).1);
        assert!(use_once(&contexts, c).1);
    }

    #[test]
    fn more_contexts_than_the_maximum_are_not_kept() {
        for max in [0, 1] {
            let contexts = Contexts::new(max);
            let (first, _) = take(&contexts, None);
            let (second, _) = take(&contexts, None);
            assert!(contexts.put(second).is_none());
            assert_eq!(contexts.put(first).is_some(), max == 1);
            assert_eq!(contexts.allocated(), max);
        }
    }
}
