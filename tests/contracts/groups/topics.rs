//! Groups by key. A group exists as long as it has members.

use std::collections::{BTreeMap, BTreeSet};

use getty::{SlowConsumer, layers::Topics};
use proptest::prelude::*;
use tokio_test::{assert_pending, assert_ready, task};

use super::{Guest, guests};

#[test]
fn topics_exist_as_long_as_they_have_members() {
    let topics: Topics<String, String> = Topics::new();
    let [mut one, mut two] = guests();
    assert!(topics.join("tea".to_owned(), &one.session));
    assert!(!topics.join("tea".to_owned(), &one.session));
    assert!(topics.join("tea".to_owned(), &two.session));
    assert!(topics.join("milk".to_owned(), &two.session));
    assert_eq!((topics.len(), topics.count("tea")), (2, 2));
    assert_eq!(topics.members("milk")[0].id(), two.session.id());
    assert!(topics.contains("tea", &one.session));
    assert!(!topics.contains("milk", &one.session));
    let of_two: BTreeSet<_> = topics.of(&two.session).into_iter().collect();
    assert_eq!(
        of_two,
        BTreeSet::from(["milk".to_owned(), "tea".to_owned()])
    );

    topics.broadcast("tea", "to both".to_owned());
    topics.broadcast_except("tea", &one.session, "to two".to_owned());
    assert_eq!(
        topics.broadcast("coffee", "to nobody".to_owned()).members(),
        0
    );
    assert_eq!(one.received(), ["to both"]);
    assert_eq!(two.received(), ["to both", "to two"]);

    assert!(topics.leave("tea", &one.session));
    assert!(!topics.leave("tea", &one.session));
    assert_eq!(topics.leave_all(&two.session), 2);
    assert!(topics.is_empty());
    assert!(topics.join("milk".to_owned(), &two.session));
    two.hang_up();
    assert!(topics.is_empty());
}

#[test]
fn broadcast_where_reaches_each_member_of_matching_topics_once() {
    let topics: Topics<&str, String> = Topics::new();
    let [mut one, mut two, mut three] = guests();
    for (key, guest) in [
        ("news.art", &one),
        ("news.sport", &one),
        ("news.sport", &two),
        ("weather", &three),
        ("weather", &one),
    ] {
        topics.join(key, &guest.session);
    }
    let is_news = |key: &&str| key.starts_with("news.");
    assert_eq!(
        topics
            .broadcast_where(is_news, "to news".to_owned())
            .delivered,
        2
    );
    // A single topic matches.
    let report = topics.broadcast_where(|key| *key == "weather", "sun".to_owned());
    assert_eq!(report.delivered, 2);
    let report = topics.broadcast_where(|_| false, "lost".to_owned());
    assert_eq!(report.members(), 0);
    assert_eq!(one.received(), ["to news", "sun"]);
    assert_eq!(two.received(), ["to news"]);
    assert_eq!(three.received(), ["sun"]);
}

#[test]
fn keys_and_counts_of_sessions_are_listed() {
    let topics: Topics<u8, String> = Topics::new();
    let [one, two] = guests();
    for key in 0..100 {
        topics.join(key, &one.session);
    }
    topics.join(7, &two.session);
    let keys: BTreeSet<_> = topics.keys().into_iter().collect();
    assert_eq!(keys, (0..100).collect());
    assert_eq!(topics.count_of(&one.session), 100);
    assert_eq!(topics.count_of(&two.session), 1);
    topics.leave(&7, &one.session);
    assert_eq!(topics.count_of(&one.session), 99);
    topics.leave_all(&one.session);
    assert_eq!(topics.count_of(&one.session), 0);
    assert_eq!(topics.keys(), [7]);
    let closed = two.session.clone();
    two.hang_up();
    assert_eq!(topics.count_of(&closed), 0);
}

#[test]
fn topic_refuses_a_session_that_has_closed() {
    let topics: Topics<u8, String> = Topics::new();
    let guest = Guest::new();
    let session = guest.session.clone();
    topics.join(1, &session);
    guest.hang_up();
    assert!(!topics.join(1, &session));
    assert!(topics.is_empty());
    assert!(topics.of(&session).is_empty());
}

#[test]
fn publisher_of_a_topic_waits_for_members_with_the_wait_policy() {
    let topics: Topics<u8, String> = Topics::builder().with_policy(SlowConsumer::Wait).build();
    let mut guest = Guest::new();
    topics.join(1, &guest.session);
    guest.stall();
    let mut broadcasting = task::spawn(topics.broadcast_and_wait(&1, "hello".to_owned()));
    assert_pending!(broadcasting.poll());
    assert!(guest.received().is_empty());
    assert_eq!(assert_ready!(broadcasting.poll()).delivered, 1);
    assert_eq!(guest.received(), ["hello"]);
}

#[derive(Clone, Debug)]
enum Step {
    Join(u8, usize),
    Leave(u8, usize),
    LeaveAll(usize),
    HangUp(usize),
    Broadcast(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let (key, who) = (0..4_u8, 0..6_usize);
    prop_oneof![
        6 => (key.clone(), who.clone()).prop_map(|(key, who)| Step::Join(key, who)),
        3 => (key.clone(), who.clone()).prop_map(|(key, who)| Step::Leave(key, who)),
        1 => who.clone().prop_map(Step::LeaveAll),
        1 => who.prop_map(Step::HangUp),
        4 => key.prop_map(Step::Broadcast),
    ]
}

proptest! {
    #[test]
    fn topics_match_a_model_of_joins_and_leaves(steps in prop::collection::vec(step(), 1..60)) {
        let topics: Topics<u8, String> = Topics::new();
        let mut guests: [_; 6] = guests().map(Some);
        let mut expected = BTreeMap::<u8, BTreeSet<usize>>::new();
        for step in steps {
            let leave_all = |expected: &mut BTreeMap<_, BTreeSet<usize>>, who| {
                let left = expected.values_mut().filter_map(|members| members.remove(&who).then_some(()));
                let left = left.count();
                expected.retain(|_, members| !members.is_empty());
                left
            };
            match step {
                Step::Join(key, who) => if let Some(guest) = &guests[who] {
                    let new = expected.entry(key).or_default().insert(who);
                    prop_assert_eq!(topics.join(key, &guest.session), new);
                },
                Step::Leave(key, who) => if let Some(guest) = &guests[who] {
                    let was = expected.get_mut(&key).is_some_and(|members| members.remove(&who));
                    expected.retain(|_, members| !members.is_empty());
                    prop_assert_eq!(topics.leave(&key, &guest.session), was);
                },
                Step::LeaveAll(who) => if let Some(guest) = &guests[who] {
                    prop_assert_eq!(topics.leave_all(&guest.session), leave_all(&mut expected, who));
                },
                Step::HangUp(who) => if let Some(guest) = guests[who].take() {
                    guest.hang_up();
                    leave_all(&mut expected, who);
                },
                Step::Broadcast(key) => {
                    topics.broadcast(&key, key.to_string());
                    for (who, guest) in guests.iter_mut().enumerate() {
                        let is_member = expected.get(&key).is_some_and(|members| members.contains(&who));
                        if let Some(guest) = guest {
                            prop_assert_eq!(guest.received().len(), usize::from(is_member));
                        }
                    }
                }
            }
            prop_assert_eq!(topics.len(), expected.len());
            for (key, members) in &expected {
                prop_assert_eq!(topics.count(key), members.len());
            }
            for (who, guest) in guests.iter().enumerate() {
                let of = expected.iter().filter(|(_, members)| members.contains(&who));
                let of: BTreeSet<u8> = of.map(|(key, _)| *key).collect();
                if let Some(guest) = guest {
                    prop_assert_eq!(topics.of(&guest.session).into_iter().collect::<BTreeSet<_>>(), of);
                }
            }
        }
    }
}
