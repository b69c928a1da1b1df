use std::{
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use getty_cluster::{ClaimError, Claimed, Claims, LostName, Previous, StoreAway, bus::Fault};
use getty_core::CloseReason;

use crate::{
    engine::{Net, Node, WAIT, contract},
    support::{Guest, until},
};

const SECOND: Duration = Duration::from_secs(1);

contract! {
    servers: [
        later_login_ends_the_earlier_session_on_any_node,
        name_is_free_once_its_session_has_closed_or_released_it,
        of_any_number_of_simultaneous_logins_exactly_one_stays,
        store_that_is_away_admits_or_refuses_and_is_reconciled_later,
        session_that_loses_a_unique_name_stays_open_and_is_reported,
        of_any_number_of_simultaneous_claims_of_a_free_name_one_succeeds,
        names_of_a_session_are_released_one_by_one,
        login_of_a_session_that_closes_meanwhile_leaves_no_claim,
        session_that_claims_its_name_again_keeps_it,
        name_whose_removal_has_failed_is_free_once_the_store_is_back,
        claim_whose_answer_was_lost_leaves_no_entry_and_is_found_if_it_is_admitted,
    ],
    long: [
        name_of_a_dead_node_is_free_and_of_an_unreachable_one_is_taken_over,
        unique_name_of_a_node_that_was_cut_off_is_lost_and_its_session_stays_open,
    ],
    memory: [
        claim_that_was_admitted_is_written_although_others_are_faster,
        claims_are_written_again_before_they_expire,
        node_whose_beats_were_interrupted_checks_its_claims,
    ],
}

async fn take(claims: &Claims, id: &str, guest: &Guest) -> Previous {
    let Claimed { previous, .. } = claims.take(id, &guest.session).await.unwrap();
    previous
}

async fn later_login_ends_the_earlier_session_on_any_node(net: Net) {
    let [one, two] = net.nodes().await;
    let (users, others) = (one.claims("users"), two.claims("users"));
    let (first, second, third) = (Guest::new(), Guest::new(), Guest::new());
    assert_eq!(take(&users, "ada", &first).await, Previous::None);
    assert_eq!(take(&others, "ada", &second).await, Previous::Closed);
    assert_eq!(first.session.reason(), Some(CloseReason::TakenOver));
    assert_eq!(take(&others, "ada", &third).await, Previous::Closed);
    assert_eq!(second.session.reason(), Some(CloseReason::TakenOver));
    assert_eq!((users.len(), others.len()), (0, 1));
    // another name, and another set, are independent
    assert_eq!(take(&users, "bob", &Guest::new()).await, Previous::None);
    let names = one.claims("names");
    assert_eq!(take(&names, "ada", &Guest::new()).await, Previous::None);
    assert_eq!(third.session.reason(), None);
}

async fn name_is_free_once_its_session_has_closed_or_released_it(net: Net) {
    let [one, two] = net.nodes().await;
    let (names, others) = (one.claims("names"), two.claims("names"));
    let (first, second) = (Guest::new(), Guest::new());
    names.take_free("ada", &first.session).await.unwrap();
    let taken = others.take_free("ada", &second.session).await;
    assert!(matches!(taken, Err(ClaimError::Taken)), "{taken:?}");
    assert!(!others.release("ada", &second.session));
    assert!(names.release("ada", &first.session));
    one.leave().await;
    others.take_free("ada", &second.session).await.unwrap();
    drop(second);
    two.leave().await;
    names.take_free("ada", &first.session).await.unwrap();
    assert_eq!((names.len(), others.len()), (1, 0));
}

async fn name_of_a_dead_node_is_free_and_of_an_unreachable_one_is_taken_over(net: Net) {
    let [one, two] = net.nodes().await;
    let (names, others) = (one.claims("names"), two.claims("names"));
    let (first, second, third) = (Guest::new(), Guest::new(), Guest::new());
    others.take("ada", &first.session).await.unwrap();
    two.cut_at_once();
    // not yet known to be dead
    assert_eq!(take(&names, "ada", &second).await, Previous::Unreachable);
    names.release("ada", &second.session);
    until(|| one.nodes().is_empty()).await;
    tokio::time::sleep(SECOND).await;
    names.take_free("ada", &third.session).await.unwrap();

    // the cut-off node ends its session when it is back
    assert_eq!(first.session.reason(), None);
    two.reconnect().await;
    until(|| first.session.reason().is_some()).await;
    assert_eq!(first.session.reason(), Some(CloseReason::TakenOver));
    assert_eq!(third.session.reason(), None);
}

async fn of_any_number_of_simultaneous_logins_exactly_one_stays(net: Net) {
    // the frames between nodes are unreliable, the store is not
    let mut n = 0;
    net.set_fate(move |_, _, _| {
        n += 1;
        match n % 5 {
            0 => Fault::Drop,
            1 => Fault::Duplicate,
            2 => Fault::Delay(Duration::from_millis(7)),
            _ => Fault::None,
        }
    });
    let nodes: [Node; 3] = std::array::from_fn(|place| net.node(place));
    for node in &nodes {
        node.up().await;
    }
    let users = nodes.each_ref().map(|node| node.claims("users"));
    let guests: Vec<_> = (0..300).map(|_| Guest::new()).collect();
    let mut logins = tokio::task::JoinSet::new();
    for (n, guest) in guests.iter().enumerate() {
        let (users, session) = (users[n % 3].clone(), guest.session.clone());
        logins.spawn(async move {
            loop {
                match users.take(&format!("user {}", n % 10), &session).await {
                    Err(ClaimError::Contended) => {}
                    Ok(_) | Err(ClaimError::Closed) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    logins.join_all().await;
    until(|| users.iter().map(Claims::len).sum::<usize>() == 10).await;
    for user in 0..10 {
        let of_user = guests.iter().skip(user).step_by(10);
        let open = of_user.filter(|guest| guest.session.reason().is_none());
        assert_eq!(open.count(), 1, "user {user}");
    }
    let outcomes = users.each_ref().map(Claims::snapshot);
    let each = outcomes
        .iter()
        .map(|all| all.free + all.closed + all.unreachable + all.ended);
    assert_eq!(each.sum::<u64>(), 300, "{outcomes:?}");
}

async fn store_that_is_away_admits_or_refuses_and_is_reconciled_later(net: Net) {
    let [one, two] = net.nodes().await;
    let (users, others) = (one.claims("users"), two.claims("users"));
    let strict = one
        .claims_builder("strict")
        .with_store_away(StoreAway::Refuse)
        .build();
    let (early, late) = (Guest::new(), Guest::new());
    others.take("ada", &early.session).await.unwrap();
    one.cut().await;
    let refused = strict.take("ada", &late.session).await;
    assert!(matches!(refused, Err(ClaimError::Store(_))), "{refused:?}");
    let refused = users.take_free("bob", &late.session).await;
    assert!(matches!(refused, Err(ClaimError::Store(_))), "{refused:?}");
    assert_eq!(take(&users, "ada", &late).await, Previous::Unknown);
    assert_eq!(early.session.reason(), None, "both are open meanwhile");
    one.reconnect().await;
    until(|| early.session.reason().is_some()).await;
    assert_eq!(early.session.reason(), Some(CloseReason::TakenOver));
    assert_eq!(late.session.reason(), None);
    let again = Guest::new();
    assert_eq!(take(&others, "ada", &again).await, Previous::Closed);
}

async fn claim_that_was_admitted_is_written_although_others_are_faster(net: Net) {
    let [one, two] = net.nodes().await;
    let (users, others) = (one.claims("users"), two.claims("users"));
    let (early, late) = (Guest::new(), Guest::new());
    assert_eq!(take(&others, "ada", &early).await, Previous::None);
    one.cut().await;
    assert_eq!(take(&users, "ada", &late).await, Previous::Unknown);
    one.faults.conflicts.store(3, Relaxed);
    one.reconnect().await;
    until(|| early.session.reason() == Some(CloseReason::TakenOver)).await;
    assert_eq!(one.faults.conflicts.load(Relaxed), 0);
    assert_eq!((late.session.reason(), others.len()), (None, 0));
}

/// A hook that keeps the names that were lost, and these.
fn lost_names() -> (
    impl Fn(LostName) + Send + Sync + 'static,
    Arc<Mutex<Vec<LostName>>>,
) {
    let lost = Arc::<Mutex<Vec<_>>>::default();
    let hooked = Arc::clone(&lost);
    (move |name| hooked.lock().unwrap().push(name), lost)
}

async fn session_that_loses_a_unique_name_stays_open_and_is_reported(net: Net) {
    let [one, two] = net.nodes().await;
    let (hook, lost) = lost_names();
    let builder = one.claims_builder("names").with_lost_hook(hook);
    let (names, others) = (builder.build(), two.claims("names"));
    let (first, second) = (Guest::new(), Guest::new());
    names.take_free("ada", &first.session).await.unwrap();
    names.take_free("bob", &first.session).await.unwrap();
    assert_eq!(take(&others, "ada", &second).await, Previous::Closed);
    until(|| lost.lock().unwrap().len() == 1).await;
    let LostName { name, session, .. } = lost.lock().unwrap()[0].clone();
    assert_eq!((&name[..], session.id()), (&b"ada"[..], first.session.id()));
    assert_eq!((first.session.reason(), names.len()), (None, 1));
    assert_eq!((names.snapshot().lost, one.snapshot().taken_over), (1, 0));
    // It is as free as any other to claim it again.
    let taken = names.take_free("ada", &first.session).await;
    assert!(matches!(taken, Err(ClaimError::Taken)), "{taken:?}");
    assert!(names.has("bob", &first.session) && !names.has("ada", &first.session));

    // without a hook, and with one that panics, too
    let builder = two.claims_builder("panics");
    let panics = builder.with_lost_hook(|_| panic!("a hook")).build();
    let same = one.claims("panics");
    for (from, to) in [(&panics, &same), (&same, &panics)] {
        from.take_free("eve", &second.session).await.unwrap();
        let guest = Guest::new();
        assert_eq!(take(to, "eve", &guest).await, Previous::Closed);
        assert_eq!((second.session.reason(), from.len()), (None, 0));
        drop(guest);
        until(|| to.is_empty()).await;
        two.leave().await;
    }
}

async fn unique_name_of_a_node_that_was_cut_off_is_lost_and_its_session_stays_open(net: Net) {
    let [one, two] = net.nodes().await;
    let (hook, lost) = lost_names();
    let builder = two.claims_builder("names").with_lost_hook(hook);
    let (names, others) = (one.claims("names"), builder.build());
    let (first, second) = (Guest::new(), Guest::new());
    others.take_free("ada", &first.session).await.unwrap();
    two.cut().await;
    until(|| one.nodes().is_empty()).await;
    // This node knows that the other is dead once it has listened for long enough.
    let taken = async {
        while names.take_free("ada", &second.session).await.is_err() {
            tokio::time::sleep(SECOND / 10).await;
        }
    };
    tokio::time::timeout(WAIT, taken).await.unwrap();
    assert!(others.has("ada", &first.session));
    two.reconnect().await;
    until(|| lost.lock().unwrap().len() == 1).await;
    assert_eq!((first.session.reason(), others.len()), (None, 0));
    assert_eq!((second.session.reason(), names.len()), (None, 1));
}

async fn of_any_number_of_simultaneous_claims_of_a_free_name_one_succeeds(net: Net) {
    let nodes: [Node; 3] = net.nodes().await;
    let (hook, lost) = lost_names();
    let hook = Arc::new(hook);
    let names = nodes.each_ref().map(|node| {
        let hook = Arc::clone(&hook);
        let builder = node.claims_builder("names");
        builder.with_lost_hook(move |lost| hook(lost)).build()
    });
    let guests: Vec<_> = (0..60).map(|_| Guest::new()).collect();
    let claims = guests.iter().enumerate().map(async |(n, guest)| {
        let name = format!("name {}", n % 5);
        let result = names[n / 5 % 3].take_free(&name, &guest.session).await;
        let is_lost = matches!(result, Err(ClaimError::Taken | ClaimError::Contended));
        assert!(result.is_ok() || is_lost, "{result:?}");
        result.is_ok().then_some(name)
    });
    let taken = futures_util::future::join_all(claims).await;
    let mut taken: Vec<_> = taken.into_iter().flatten().collect();
    taken.sort();
    // All may have lost against each other, but no two have it.
    let count = taken.len();
    taken.dedup();
    assert_eq!(taken.len(), count);
    assert!(count > 0 && lost.lock().unwrap().is_empty());
    assert_eq!(names.iter().map(Claims::len).sum::<usize>(), count);
    assert!(guests.iter().all(|guest| guest.session.reason().is_none()));
}

async fn names_of_a_session_are_released_one_by_one(net: Net) {
    let [one, two] = net.nodes().await;
    let (names, others) = (one.claims("names"), two.claims("names"));
    let (guest, other) = (Guest::new(), Guest::new());
    for n in 0..5 {
        names
            .take_free(&format!("{n}"), &guest.session)
            .await
            .unwrap();
    }
    assert!(!names.release("3", &other.session) && !names.release("7", &guest.session));
    assert!(names.release("3", &guest.session) && !names.release("3", &guest.session));
    assert_eq!(names.len(), 4);
    let free = async {
        while others.take_free("3", &other.session).await.is_err() {
            tokio::time::sleep(SECOND / 100).await;
        }
    };
    tokio::time::timeout(WAIT, free).await.unwrap();
    let taken = others.take_free("4", &other.session).await;
    assert!(matches!(taken, Err(ClaimError::Taken)), "{taken:?}");
    assert!(others.snapshot().taken >= 1);
}

async fn login_of_a_session_that_closes_meanwhile_leaves_no_claim(net: Net) {
    let [one, two] = net.nodes().await;
    let (users, others) = (one.claims("users"), two.claims("users"));
    let guest = Guest::new();
    let session = guest.session.clone();
    let login = users.take("ada", &session);
    drop(guest);
    let result = login.await;
    assert!(matches!(result, Err(ClaimError::Closed)), "{result:?}");
    one.leave().await;
    others
        .take_free("ada", &Guest::new().session)
        .await
        .unwrap();

    // a login whose future is dropped goes on, and ends with its session
    let guest = Guest::new();
    {
        let login = users.take("bob", &guest.session);
        tokio::pin!(login);
        assert!(futures_util::poll!(&mut login).is_pending());
    }
    until(|| users.len() == 1).await;
    drop(guest);
    until(|| users.is_empty()).await;
    one.leave().await;
    others
        .take_free("bob", &Guest::new().session)
        .await
        .unwrap();
}

async fn session_that_claims_its_name_again_keeps_it(net: Net) {
    let [one, two] = net.nodes().await;
    let (users, others) = (one.claims("users"), two.claims("users"));
    let (guest, other) = (Guest::new(), Guest::new());
    assert_eq!(take(&users, "ada", &guest).await, Previous::None);
    assert_eq!(take(&users, "ada", &guest).await, Previous::None);
    users.take_free("ada", &guest.session).await.unwrap();
    assert_eq!((guest.session.reason(), users.len()), (None, 1));
    assert!(users.has("ada", &guest.session) && !users.has("ada", &other.session));
    let taken = others.take_free("ada", &other.session).await;
    assert!(matches!(taken, Err(ClaimError::Taken)), "{taken:?}");
    assert_eq!(take(&others, "ada", &other).await, Previous::Closed);
    assert_eq!(guest.session.reason(), Some(CloseReason::TakenOver));
}

async fn name_whose_removal_has_failed_is_free_once_the_store_is_back(net: Net) {
    let [one, two] = net.nodes().await;
    let faults = &one.faults;
    let (names, others) = (one.claims("names"), two.claims("names"));
    let (guests, last) = ([(); 50].map(|()| Guest::new()), Guest::new());
    for (n, guest) in guests.iter().enumerate() {
        names
            .take_free(&n.to_string(), &guest.session)
            .await
            .unwrap();
    }
    faults.refuses_removals.store(true, Relaxed);
    drop(guests);
    tokio::time::sleep(10 * SECOND).await;
    let taken = others.take_free("7", &last.session).await;
    assert!(matches!(taken, Err(ClaimError::Taken)), "{taken:?}");
    faults.refuses_removals.store(false, Relaxed);
    tokio::time::sleep(5 * SECOND).await;
    for n in 0..50 {
        others
            .take_free(&n.to_string(), &last.session)
            .await
            .unwrap();
    }
}

async fn claim_whose_answer_was_lost_leaves_no_entry_and_is_found_if_it_is_admitted(net: Net) {
    let [one, two] = net.nodes().await;
    let faults = &one.faults;
    let (names, others) = (one.claims("names"), two.claims("names"));
    let (early, guest, other) = (Guest::new(), Guest::new(), Guest::new());
    others.take("bob", &early.session).await.unwrap();

    faults.loses_answers.store(true, Relaxed);
    let refused = names.take_free("ada", &guest.session).await;
    assert!(matches!(refused, Err(ClaimError::Store(_))), "{refused:?}");
    assert_eq!(take(&names, "bob", &guest).await, Previous::Unknown);
    faults.loses_answers.store(false, Relaxed);
    tokio::time::sleep(5 * SECOND).await;
    others.take_free("ada", &other.session).await.unwrap();
    // The entry knew its predecessor.
    assert_eq!(early.session.reason(), Some(CloseReason::TakenOver));
    assert_eq!((guest.session.reason(), names.len()), (None, 1));
}

async fn claims_are_written_again_before_they_expire(net: Net) {
    let [one] = net.nodes().await;
    let faults = &one.faults;
    let users = one.claims("users");
    let guest = Guest::new();
    take(&users, "ada", &guest).await;
    tokio::time::sleep(11 * 3600 * SECOND).await;
    assert_eq!(faults.puts.load(Relaxed), 1);
    tokio::time::sleep(37 * 3600 * SECOND).await;
    let puts = faults.puts.load(Relaxed);
    assert!((4..=5).contains(&puts), "{puts}");
    assert_eq!((guest.session.reason(), users.len()), (None, 1));
}

async fn node_whose_beats_were_interrupted_checks_its_claims(net: Net) {
    // the inboxes of nodes hear nothing
    net.set_fate(|_, subject, _| {
        if subject.contains(".n.") {
            Fault::Drop
        } else {
            Fault::None
        }
    });
    let [one, two] = net.nodes().await;
    let (users, others) = (one.claims("users"), two.claims("users"));
    let (first, second) = (Guest::new(), Guest::new());
    take(&users, "ada", &first).await;
    assert_eq!(take(&others, "ada", &second).await, Previous::Unreachable);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(first.session.reason(), None, "nothing has told the node");
    // The process is stopped: no task runs for 15 s.
    tokio::time::advance(15 * SECOND).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(first.session.reason(), Some(CloseReason::TakenOver));
    assert_eq!(second.session.reason(), None);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "this node has claims with the name users")]
async fn second_set_of_claims_with_a_name_panics() {
    let [one] = Net::memory().nodes().await;
    let _users = one.claims("users");
    let _same = one.claims("users");
}
