//! Members of a group: a list that broadcasts iterate over without a lock.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use getty_core::{
    CallbackAdded, ConnectionHandle, Session, SlowConsumer, WeakSession, internal::WeightFn,
    sync::Lazy,
};

use super::builder::Settings;

/// Member of a group.
pub(super) struct Member<Out> {
    pub(super) id: u64,
    /// Weak, because a group must not keep a closed session alive (design.md: Why do groups hold
    /// weak references to sessions?).
    pub(super) session: WeakSession<Out>,
    pub(super) policy: SlowConsumer,
    /// Number of messages dropped since the last notice. `None` in a group without notices.
    pub(super) missed: Option<Arc<AtomicU64>>,
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
            missed: settings.notice.as_ref().map(|_| Arc::default()),
        }
    }
}

impl<Out> Clone for Member<Out> {
    fn clone(&self) -> Self {
        Self {
            session: self.session.clone(),
            missed: self.missed.clone(),
            ..*self
        }
    }
}

/// List of members that a broadcast iterates over.
pub(super) type List<Out> = Arc<Vec<Member<Out>>>;

/// Members that a broadcast is sent to.
pub(super) struct Recipients<Out> {
    pub(super) list: List<Out>,
    /// Function that returns the bytes that a message holds, if it is known.
    pub(super) weigh: Option<WeightFn<Out>>,
}

impl<Out> Recipients<Out> {
    /// Returns the members of all lists, each session once.
    pub(super) fn union(mut lists: Vec<Self>) -> Self {
        if lists.len() <= 1 {
            return lists.pop().unwrap_or_default();
        }
        let weigh = lists.iter().find_map(|recipients| recipients.weigh);
        let mut ids = HashSet::new();
        let members = lists.iter().flat_map(|recipients| recipients.list.iter());
        let members = members.filter(|member| ids.insert(member.id)).cloned();
        Self {
            list: Arc::new(members.collect()),
            weigh,
        }
    }
}

impl<Out> Default for Recipients<Out> {
    fn default() -> Self {
        Self {
            list: Arc::default(),
            weigh: None,
        }
    }
}

/// Returns `true` if a collection of `len` elements should shrink. This is rare enough that
/// joining and leaving take constant time.
pub(super) const fn should_shrink(len: usize, capacity: usize) -> bool {
    capacity > MIN_CAPACITY && len < capacity / 4
}

/// Members of a group and their positions in the list.
///
/// A broadcast clones the `Arc` of the list and iterates over it while sessions join and leave.
/// The first such change then copies the list. There is at most one copy per broadcast, and the
/// broadcast itself visits every member. So joining and leaving take constant time, and
/// broadcasts neither copy nor allocate (design.md: Why is the list of members sometimes
/// copied?).
///
/// No user code runs here: the list refers to sessions weakly and drops none.
pub(super) struct Members<Out> {
    list: List<Out>,
    /// Positions by id of the session. There are none while there are few members, which are
    /// searched: most topics, such as that of a user, have one (design.md: Why do small groups
    /// have no table of positions?).
    positions: Lazy<HashMap<u64, usize>>,
    /// Setting of the first member that had one.
    weigh: Option<WeightFn<Out>>,
}

/// Capacity up to which a collection keeps its memory.
const MIN_CAPACITY: usize = 16;
/// Number of members that are searched without positions. The positions are dropped at half of
/// it.
const FEW: usize = 8;

impl<Out> Members<Out> {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.position(id).is_some()
    }

    fn position(&self, id: u64) -> Option<usize> {
        match self.positions.get() {
            Some(positions) => positions.get(&id).copied(),
            None => self.list.iter().position(|member| member.id == id),
        }
    }

    /// Returns the current members.
    pub(super) fn list(&self) -> List<Out> {
        Arc::clone(&self.list)
    }

    /// Returns the current members and their weight function, for a broadcast.
    pub(super) fn recipients(&self) -> Recipients<Out> {
        Recipients {
            list: self.list(),
            weigh: self.weigh,
        }
    }

    /// Adds `member` and returns `true` if it is new. Otherwise an explicit `policy` replaces the
    /// member's policy. `weigh` is the weight function of its session, which is kept unless the
    /// group has one.
    pub(super) fn insert(
        &mut self,
        member: Member<Out>,
        weigh: Option<WeightFn<Out>>,
        policy: Option<SlowConsumer>,
    ) -> bool {
        self.weigh = self.weigh.or(weigh);
        let id = member.id;
        if let Some(position) = self.position(id) {
            if let Some(policy) = policy {
                Arc::make_mut(&mut self.list)[position].policy = policy;
            }
            return false;
        }
        let list = Arc::make_mut(&mut self.list);
        if list.is_empty() {
            // The default capacity is four.
            list.reserve_exact(1);
        }
        list.push(member);
        if let Some(positions) = self.positions.get_mut() {
            positions.insert(id, list.len() - 1);
        } else if list.len() > FEW {
            let ids = list.iter().map(|member| member.id);
            self.positions.set(ids.zip(0..).collect());
        }
        true
    }

    pub(super) fn remove(&mut self, id: u64) -> bool {
        let Some(position) = self.position(id) else {
            return false;
        };
        let list = Arc::make_mut(&mut self.list);
        list.swap_remove(position);
        let shrinks = should_shrink(list.len(), list.capacity());
        if shrinks {
            list.shrink_to(2 * list.len());
        }
        if list.len() <= FEW / 2 {
            self.positions.reset();
        }
        if let Some(positions) = self.positions.get_mut() {
            positions.remove(&id);
            if let Some(moved) = list.get(position) {
                positions.insert(moved.id, position);
            }
            if shrinks {
                positions.shrink_to(2 * list.len());
            }
        }
        true
    }
}

impl<Out> Default for Members<Out> {
    fn default() -> Self {
        Self {
            list: Arc::default(),
            positions: Lazy::new(),
            weigh: None,
        }
    }
}

/// Returns the sessions of `list` that are alive.
pub(super) fn sessions<Out>(list: &[Member<Out>]) -> Vec<Session<Out>> {
    let alive = list.iter().filter_map(|member| member.session.upgrade());
    alive.collect()
}

/// Key of the close callbacks of a group or of topics. It is unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CallbackKey(u64);

impl CallbackKey {
    pub(super) fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }

    /// Adds a close callback to `session`. Returns `false` if the session has closed, in which case
    /// `leave` was called at once.
    pub(super) fn add_callback(
        self,
        session: &ConnectionHandle,
        leave: impl FnOnce() + Send + 'static,
    ) -> bool {
        session.add_close_callback(self, (), move |_| leave()) != CallbackAdded::RanNow
    }

    /// Removes the close callback from `session`.
    pub(super) fn remove_callback(self, session: &ConnectionHandle) {
        session.remove_close_callback(self, ());
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use getty_core::{Connection, driver};

    use super::*;

    #[test]
    fn members_are_found_in_lists_of_any_length() {
        let settings = Settings::default();
        let connections: Vec<_> = (0..40).map(|_| Connection::new(())).collect();
        let sessions: Vec<Session<()>> = connections
            .iter()
            .map(|connection| driver::pair(connection.handle().clone()).0)
            .collect();
        let mut members = Members::default();
        let mut expected = HashSet::new();
        let (mut random, mut lens) = (7_u64, HashSet::new());
        for round in 0..3000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let place = usize::try_from(random >> 40).unwrap() % sessions.len();
            let session = &sessions[place];
            // The list grows in the first half of 400 rounds.
            let joins = (random >> 33) % 10 < if round % 400 < 200 { 9 } else { 1 };
            if joins {
                let member = Member::new(session, &settings, None);
                let is_new = members.insert(member, None, None);
                assert_eq!(is_new, expected.insert(session.id()));
            } else {
                assert_eq!(members.remove(session.id()), expected.remove(&session.id()));
            }
            let list = members.list();
            let ids: Vec<_> = list.iter().map(|member| member.id).collect();
            assert_eq!(ids.len(), expected.len());
            assert_eq!(HashSet::from_iter(ids.iter().copied()), expected);
            for session in &sessions {
                let position = ids.iter().position(|id| *id == session.id());
                assert_eq!(members.position(session.id()), position);
            }
            match members.positions.get() {
                Some(positions) => assert!(positions.len() > FEW / 2),
                None => assert!(ids.len() <= FEW),
            }
            lens.insert(ids.len());
        }
        assert!(lens.contains(&0) && lens.contains(&35), "{lens:?}");
    }

    #[test]
    fn list_of_one_member_has_no_spare_memory() {
        let connection = Connection::new(());
        let (session, _driver) = driver::pair::<()>(connection.handle().clone());
        let mut members = Members::default();
        members.insert(
            Member::new(&session, &Settings::default(), None),
            None,
            None,
        );
        assert_eq!((members.list.capacity(), members.len()), (1, 1));
        assert!(!members.positions.is_some());
        assert!(size_of::<Members<()>>() <= 3 * size_of::<usize>());
    }
}
