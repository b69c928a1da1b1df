//! Names on the bus. Keys of users cannot escape their level or form a wildcard.

use std::{
    borrow::Borrow,
    fmt::{self, Write},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use crate::NodeId;

/// Longest token that is written in full, in bytes. A longer one is replaced by its hash.
const MAX_TOKEN: usize = 180;

/// Start of all subjects.
const ROOT: &str = "getty.";
/// Follows the namespace in the subjects of topics.
const TOPICS: &str = ".t.";

/// Name of a channel on the bus, such as `getty.chat.t.rooms.lobby`. Also the key of an entry
/// in the store.
///
/// It consists of tokens between dots. Each token has letters and digits of ASCII, `-` and `_`
/// only, so a subject never contains a wildcard, a space or a line break of the bus's protocol.
/// Different names have different tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Arc<str>);

impl Subject {
    /// Returns the subject of a topic.
    pub(crate) fn topic(namespace: &str, set: &str, key: &[u8]) -> Self {
        Self::join(namespace, &["t", set, &token(key)])
    }

    /// Returns the subject of several topics of a set with the same hash.
    pub(crate) fn bucket(namespace: &str, set: &str, bucket: u32) -> Self {
        Self::join(namespace, &["t", set, &format!("_{bucket}")])
    }

    /// Returns the subject that only one node reads.
    pub(crate) fn node(namespace: &str, node: NodeId) -> Self {
        Self::join(namespace, &["n", &node.to_string()])
    }

    /// Returns the subject that all nodes read.
    pub(crate) fn all(namespace: &str) -> Self {
        Self::join(namespace, &["all"])
    }

    /// Returns the key of a claim in the store.
    pub(crate) fn claim(namespace: &str, set: &str, id: &[u8]) -> Self {
        Self::join(namespace, &["c", set, &token(id)])
    }

    fn join(namespace: &str, rest: &[&str]) -> Self {
        let mut subject = format!("{ROOT}{namespace}");
        for part in rest {
            subject.push('.');
            subject.push_str(part);
        }
        Self(subject.into())
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the index of the shard of a topic or a claim with this subject, from 0, in a
    /// [`Sharded`](crate::bus::Sharded) bus of `shards`.
    ///
    /// It is the same on all nodes and in all versions. With one shard more, a subject keeps its
    /// shard or moves to the new one.
    ///
    /// ```
    /// use getty_cluster::{Cluster, ClusterTopics, form::Plain};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cluster = Cluster::of("chat").start();
    /// let rooms: ClusterTopics<String, String> = cluster.topics("rooms", Plain);
    /// assert_eq!(rooms.subject("tea").as_str(), "getty.chat.t.rooms.tea");
    /// assert!(rooms.subject("tea").shard(4) < 4);
    /// # }
    /// ```
    #[must_use]
    pub fn shard(&self, shards: usize) -> usize {
        if shards < 2 {
            return 0;
        }
        let hash = stable_hash(self.0.as_bytes());
        // The shard with the highest number for this subject. A further one changes no other.
        let number = |shard: &usize| mix(hash ^ mix(*shard as u64 + 1));
        (0..shards).max_by_key(number).unwrap_or_default()
    }

    /// Returns `true` if all nodes read this subject.
    pub(crate) fn is_for_all(&self) -> bool {
        self.0.ends_with(".all") && self.0.matches('.').count() == 2
    }

    /// Returns the subject of control frames on a shard. Nodes whose shards have another order
    /// read other subjects.
    pub(crate) fn on_shard(&self, index: usize) -> Self {
        if index == 0 {
            return self.clone();
        }
        Self(format!("{self}.{index}").into())
    }

    /// Returns `true` unless this is the subject of topics. A bus should carry these frames on a
    /// connection that the messages of topics cannot delay.
    #[must_use]
    pub fn is_control(&self) -> bool {
        // Behind the namespace, whose token has no dot.
        let rest = self.0.strip_prefix(ROOT).unwrap_or_default();
        let dot = rest.bytes().position(|byte| byte == b'.');
        !dot.is_some_and(|dot| rest[dot..].starts_with(TOPICS))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Subject {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Returns the start of the subjects of topics.
pub(crate) fn topic_prefix(namespace: &str) -> String {
    format!("{ROOT}{namespace}{TOPICS}")
}

/// Returns the set of a topic's subject, or `None` for any other subject.
pub(crate) fn topic_set<'a>(subject: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = subject.strip_prefix(prefix)?;
    Some(rest.split_once('.').map_or(rest, |(set, _)| set))
}

/// Returns a hash that is the same on all nodes and in all versions, so it has no random seed.
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    // FNV-1a
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Distributes the bits of a number, in the same way in all versions.
const fn mix(number: u64) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let number = (number ^ (number >> 32)).wrapping_mul(ODD);
    let number = (number ^ (number >> 29)).wrapping_mul(ODD);
    number ^ (number >> 32)
}

/// Returns the token for a name: letters, digits and `-` stay, any other byte becomes `_` and
/// two hexadecimal digits. A name whose token would be too long becomes `__` and its hash.
pub(crate) fn token(name: &[u8]) -> String {
    if name.is_empty() {
        return "__".to_owned();
    }
    let mut token = String::with_capacity(name.len());
    for &byte in name {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            token.push(char::from(byte));
        } else {
            hex(&mut token, byte);
        }
        if token.len() > MAX_TOKEN {
            return hashed(name);
        }
    }
    token
}

fn hashed(name: &[u8]) -> String {
    let mut token = String::from("__");
    for byte in Sha256::digest(name) {
        let _ = write!(token, "{byte:02x}");
    }
    token
}

fn hex(token: &mut String, byte: u8) {
    let _ = write!(token, "_{byte:02x}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_users_form_no_wildcard_level_or_line_break() {
        assert_eq!(token(b">"), "_3e");
        assert_eq!(token(b"*"), "_2a");
        assert_eq!(token(b"a.b"), "a_2eb");
        assert_eq!(token(b"\r\nPUB x"), "_0d_0aPUB_20x");
        assert_eq!(token("\u{e9}t\u{e9}".as_bytes()), "_c3_a9t_c3_a9");
        assert_eq!(token(b"a_b"), "a_5fb");
        assert_eq!(token(&[b'x'; 200]).len(), 66);
        let subject = Subject::topic("app", "rooms", b">");
        assert_eq!(subject.as_str(), "getty.app.t.rooms._3e");
        let prefix = topic_prefix("app");
        assert_eq!(topic_set(subject.as_str(), &prefix), Some("rooms"));
        assert_eq!(topic_set(Subject::all("app").as_str(), &prefix), None);
        for control in [
            Subject::all("app"),
            Subject::all("t"),
            Subject::node("t", NodeId(1)),
        ] {
            assert!(control.is_control(), "{control}");
        }
        for namespace in ["app", "t", "all"] {
            assert!(!Subject::topic(namespace, "rooms", b"t").is_control());
            assert!(!Subject::bucket(namespace, "rooms", 7).is_control());
        }
        assert!(Subject::claim("app", "users", b"ada").is_control());
    }

    #[test]
    fn shard_of_a_subject_never_changes() {
        let shards = |key: &str| {
            let subject = Subject::topic("app", "rooms", key.as_bytes());
            [1, 2, 3, 4, 20].map(|shards| subject.shard(shards))
        };
        assert_eq!(shards("tea"), [0, 0, 0, 0, 16]);
        assert_eq!(shards("milk"), [0, 1, 1, 1, 12]);
        assert_eq!(shards("lobby"), [0, 0, 0, 0, 13]);
        assert_eq!(shards("\u{1f375}"), [0, 1, 2, 2, 2]);
        assert_eq!(shards(""), [0, 1, 1, 1, 14]);
        assert_eq!(Subject::all("app").shard(0), 0);
    }

    #[test]
    fn shards_have_equal_shares_and_a_new_one_takes_its_own_from_all() {
        let subjects: Vec<_> = (0..20_000)
            .map(|n| Subject::topic("app", "rooms", format!("room {n}").as_bytes()))
            .collect();
        for shards in 1..10 {
            let mut shares = vec![0; shards];
            let mut moved = vec![0; shards];
            for subject in &subjects {
                let (before, after) = (subject.shard(shards), subject.shard(shards + 1));
                shares[before] += 1;
                if before != after {
                    assert_eq!(after, shards, "{subject}");
                    moved[before] += 1;
                }
            }
            let is_near = |n: usize, mean: usize| n.abs_diff(mean) < mean / 5;
            let mean = subjects.len() / shards;
            assert!(shares.iter().all(|&n| is_near(n, mean)), "{shares:?}");
            let mean = mean / (shards + 1);
            assert!(moved.iter().all(|&n| is_near(n, mean)), "{moved:?}");
        }
    }

    #[test]
    fn control_frames_have_a_subject_for_each_shard() {
        let all = Subject::all("app");
        assert_eq!(all.on_shard(0), all);
        assert_eq!(all.on_shard(2).as_str(), "getty.app.all.2");
        assert!(all.is_for_all());
        for namespace in ["all", "app"] {
            assert!(!Subject::topic(namespace, "all", b"all").is_for_all());
            assert!(!Subject::node(namespace, NodeId(1)).is_for_all());
        }
        for subject in [all, Subject::node("t", NodeId(1))] {
            assert!(subject.on_shard(1).is_control(), "{subject}");
        }
    }

    proptest! {
        #[test]
        fn different_names_have_different_tokens_of_the_alphabet(
            one in proptest::collection::vec(any::<u8>(), 0..300),
            two in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let (a, b) = (token(&one), token(&two));
            prop_assert_eq!(one == two, a == b);
            for token in [a, b] {
                prop_assert!(!token.is_empty() && token.len() <= MAX_TOKEN);
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
                prop_assert!(token.bytes().all(allowed));
            }
        }
    }
}
