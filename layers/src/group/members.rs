//! Who is in a group: a list that broadcasts walk without a lock.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use getty_core::{
    CallbackAdded, ConnectionHandle, Session, SlowConsumer, WeakSession, internal::Weigh,
};

use super::settings::Settings;

/// One member.
pub(super) struct Member<Out> {
    pub(super) id: u64,
    pub(super) session: WeakSession<Out>,
    pub(super) policy: SlowConsumer,
    /// What was dropped for it since it was last told, where the group tells.
    pub(super) lag: Option<Arc<AtomicU64>>,
}

impl<Out> Member<Out> {
    pub(super) fn new(
        session: &Session<Out>,
        settings: &Settings<Out>,
        policy: Option<SlowConsumer>,
    ) -> Self {
        Self {
            id: session.id(),
            session: session.downgrade(),
            policy: policy.unwrap_or(settings.policy),
            lag: settings.notice.as_ref().map(|_| Arc::default()),
        }
    }
}

impl<Out> Clone for Member<Out> {
    fn clone(&self) -> Self {
        Self {
            session: self.session.clone(),
            lag: self.lag.clone(),
            ..*self
        }
    }
}

/// A list of members, as a broadcast walks it.
pub(super) type List<Out> = Arc<Vec<Member<Out>>>;

/// The members that a broadcast is for.
pub(super) struct Present<Out> {
    pub(super) list: List<Out>,
    /// Returns how many bytes a message holds, if that is known.
    pub(super) weigh: Option<Weigh<Out>>,
}

impl<Out> Default for Present<Out> {
    fn default() -> Self {
        Self {
            list: Arc::default(),
            weigh: None,
        }
    }
}

/// Whether what a crowd has left behind is worth giving back: seldom enough for coming and going to stay of constant cost.
pub(super) const fn is_roomy(len: usize, capacity: usize) -> bool {
    capacity > SHORT && len < capacity / 4
}

/// The members, and where each stands in their list.
///
/// A broadcast takes a share of the list and walks it while others join and leave. The first of these then copies it: at
/// most once for each broadcast, which has to walk as much as is copied. So coming and going are still of constant cost,
/// and broadcasts neither copy nor allocate.
///
/// No code of the user's runs in here: the list refers to sessions weakly, and drops none.
pub(super) struct Members<Out> {
    list: List<Out>,
    places: HashMap<u64, usize>,
    /// The setting of the first member that joined.
    weigh: Option<Weigh<Out>>,
}

/// A list no longer than this keeps its memory.
const SHORT: usize = 16;

impl<Out> Members<Out> {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.places.contains_key(&id)
    }

    /// Those that are here now.
    pub(super) fn list(&self) -> List<Out> {
        Arc::clone(&self.list)
    }

    /// The same, for a broadcast.
    pub(super) fn present(&self) -> Present<Out> {
        Present {
            list: self.list(),
            weigh: self.weigh,
        }
    }

    /// Sets how many bytes a message holds, unless that is set.
    pub(super) fn weigh(&mut self, weigh: Option<Weigh<Out>>) -> &mut Self {
        self.weigh = self.weigh.or(weigh);
        self
    }

    /// Adds `member`; `true` if it is new. If it is not, a `policy` of its own is its policy from now on.
    pub(super) fn insert(&mut self, member: Member<Out>, policy: Option<SlowConsumer>) -> bool {
        match self.places.entry(member.id) {
            Entry::Vacant(place) => {
                place.insert(self.list.len());
                Arc::make_mut(&mut self.list).push(member);
                true
            }
            Entry::Occupied(place) => {
                if let Some(policy) = policy {
                    Arc::make_mut(&mut self.list)[*place.get()].policy = policy;
                }
                false
            }
        }
    }

    pub(super) fn remove(&mut self, id: u64) -> bool {
        let Some(place) = self.places.remove(&id) else {
            return false;
        };
        let list = Arc::make_mut(&mut self.list);
        list.swap_remove(place);
        if let Some(moved) = list.get(place) {
            self.places.insert(moved.id, place);
        }
        if is_roomy(list.len(), list.capacity()) {
            list.shrink_to(2 * list.len());
            self.places.shrink_to(2 * list.len());
        }
        true
    }
}

impl<Out> Default for Members<Out> {
    fn default() -> Self {
        Self {
            list: Arc::default(),
            places: HashMap::new(),
            weigh: None,
        }
    }
}

/// The sessions of `list`, as far as they live.
pub(super) fn sessions<Out>(list: &[Member<Out>]) -> Vec<Session<Out>> {
    let alive = list.iter().filter_map(|member| member.session.upgrade());
    alive.collect()
}

/// Under what a group, or the topics, have a close callback with each of their sessions; no two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Token(u64);

impl Token {
    pub(super) fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }

    /// Has `leave` called when `session` has closed. `false` if it has, and `leave` was called.
    pub(super) fn leave_at_close(
        self,
        session: &ConnectionHandle,
        leave: impl FnOnce() + Send + 'static,
    ) -> bool {
        session.add_close_callback(self, (), move |_| leave()) != CallbackAdded::RanNow
    }

    /// Takes that back.
    pub(super) fn forget(self, session: &ConnectionHandle) {
        session.remove_close_callback(self, ());
    }
}
