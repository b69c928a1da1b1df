use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use getty_cluster::{
    ClaimError, Claimed, Claims, Cluster, Previous, StoreAway,
    bus::{Fault, Memory},
};
use getty_core::CloseReason;

use crate::{
    spy::Spy,
    support::{Guest, nodes, nodes_beside, until},
};

const SECOND: Duration = Duration::from_secs(1);

async fn take(claims: &Claims, id: &str, guest: &Guest) -> Previous {
    let Claimed { previous, .. } = claims.take(id, &guest.session).await.unwrap();
    previous
}

#[tokio::test(start_paused = true)]
async fn later_login_ends_the_earlier_session_on_any_node() {
    let [(one, _), (two, _)] = nodes(&Memory::new()).await;
    let (users, others) = (one.claims("users").build(), two.claims("users").build());
    let (first, second, third) = (Guest::new(), Guest::new(), Guest::new());
    assert_eq!(take(&users, "ada", &first).await, Previous::None);
    assert_eq!(take(&others, "ada", &second).await, Previous::Closed);
    assert_eq!(first.session.reason(), Some(CloseReason::TakenOver));
    assert_eq!(take(&others, "ada", &third).await, Previous::Closed);
    assert_eq!(second.session.reason(), Some(CloseReason::TakenOver));
    assert_eq!((users.len(), others.len()), (0, 1));
    // another name, and another set, are independent
    assert_eq!(take(&users, "bob", &Guest::new()).await, Previous::None);
    let names = one.claims("names").build();
    assert_eq!(take(&names, "ada", &Guest::new()).await, Previous::None);
    assert_eq!(third.session.reason(), None);
}

#[tokio::test(start_paused = true)]
async fn name_is_free_once_its_session_has_closed_or_released_it() {
    let [(one, _), (two, _)] = nodes(&Memory::new()).await;
    let (names, others) = (one.claims("names").build(), two.claims("names").build());
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

#[tokio::test(start_paused = true)]
async fn name_of_a_dead_node_is_free_and_of_an_unreachable_one_is_taken_over() {
    let bus = Memory::new();
    let [(one, _), (two, port)] = nodes(&bus).await;
    let (names, others) = (one.claims("names").build(), two.claims("names").build());
    let (first, second, third) = (Guest::new(), Guest::new(), Guest::new());
    others.take("ada", &first.session).await.unwrap();
    port.set_connected(false);
    // not yet known to be dead
    assert_eq!(take(&names, "ada", &second).await, Previous::Unreachable);
    names.release("ada", &second.session);
    let [(three, _)] = nodes(&Memory::new()).await;
    drop(three);
    tokio::time::sleep(15 * SECOND).await;
    assert!(one.nodes().is_empty());
    names.take_free("ada", &third.session).await.unwrap();

    // the cut-off node ends its session when it is back
    assert_eq!(first.session.reason(), None);
    port.set_connected(true);
    two.up().await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(first.session.reason(), Some(CloseReason::TakenOver));
    assert_eq!(third.session.reason(), None);
}

#[tokio::test(start_paused = true)]
async fn of_any_number_of_simultaneous_logins_exactly_one_stays() {
    // the frames between nodes are unreliable, the store is not
    let mut n = 0;
    let bus = Memory::new().with_faults(move |_, _| {
        n += 1;
        match n % 5 {
            0 => Fault::Drop,
            1 => Fault::Duplicate,
            2 => Fault::Delay(Duration::from_millis(7)),
            _ => Fault::None,
        }
    });
    let clusters = [(); 3].map(|()| Cluster::of("test").over(bus.clone()).start());
    for cluster in &clusters {
        cluster.up().await;
    }
    let users = clusters
        .each_ref()
        .map(|cluster| cluster.claims("users").build());
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
    tokio::time::sleep(5 * SECOND).await;
    for user in 0..10 {
        let of_user = guests.iter().skip(user).step_by(10);
        let open = of_user.filter(|guest| guest.session.reason().is_none());
        assert_eq!(open.count(), 1, "user {user}");
    }
    let claims: usize = users.iter().map(Claims::len).sum();
    assert_eq!(claims, 10);
}

#[tokio::test(start_paused = true)]
async fn store_that_is_away_admits_or_refuses_and_is_reconciled_later() {
    let [(one, port), (two, _)] = nodes(&Memory::new()).await;
    let (users, others) = (one.claims("users").build(), two.claims("users").build());
    let strict = one
        .claims("strict")
        .with_store_away(StoreAway::Refuse)
        .build();
    let (early, late) = (Guest::new(), Guest::new());
    others.take("ada", &early.session).await.unwrap();
    port.set_connected(false);
    one.down().await;
    let refused = strict.take("ada", &late.session).await;
    assert!(matches!(refused, Err(ClaimError::Store(_))), "{refused:?}");
    let refused = users.take_free("bob", &late.session).await;
    assert!(matches!(refused, Err(ClaimError::Store(_))), "{refused:?}");
    assert_eq!(take(&users, "ada", &late).await, Previous::Unknown);
    assert_eq!(early.session.reason(), None, "both are open meanwhile");
    port.set_connected(true);
    one.up().await;
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(early.session.reason(), Some(CloseReason::TakenOver));
    assert_eq!(late.session.reason(), None);
    let again = Guest::new();
    assert_eq!(take(&others, "ada", &again).await, Previous::Closed);
}

#[tokio::test(start_paused = true)]
async fn login_of_a_session_that_closes_meanwhile_leaves_no_claim() {
    let [(one, _), (two, _)] = nodes(&Memory::new()).await;
    let (users, others) = (one.claims("users").build(), two.claims("users").build());
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

#[tokio::test(start_paused = true)]
async fn session_that_claims_its_name_again_keeps_it() {
    let [(one, _), (two, _)] = nodes(&Memory::new()).await;
    let (users, others) = (one.claims("users").build(), two.claims("users").build());
    let (guest, other) = (Guest::new(), Guest::new());
    assert_eq!(take(&users, "ada", &guest).await, Previous::None);
    assert_eq!(take(&users, "ada", &guest).await, Previous::None);
    users.take_free("ada", &guest.session).await.unwrap();
    assert_eq!((guest.session.reason(), users.len()), (None, 1));
    let taken = others.take_free("ada", &other.session).await;
    assert!(matches!(taken, Err(ClaimError::Taken)), "{taken:?}");
    assert_eq!(take(&others, "ada", &other).await, Previous::Closed);
    assert_eq!(guest.session.reason(), Some(CloseReason::TakenOver));
}

#[tokio::test(start_paused = true)]
async fn name_whose_removal_has_failed_is_free_once_the_store_is_back() {
    let bus = Memory::new();
    let (spy, faults) = Spy::new(&bus);
    let one = Cluster::of("test").over(spy).start();
    let [(two, _)] = nodes_beside(&one, &bus).await;
    let (names, others) = (one.claims("names").build(), two.claims("names").build());
    let (guests, last) = ([(); 50].map(|()| Guest::new()), Guest::new());
    for (n, guest) in guests.iter().enumerate() {
        names.take_free(&n.to_string(), &guest.session).await.unwrap();
    }
    faults.refuses_removals.store(true, Relaxed);
    drop(guests);
    tokio::time::sleep(10 * SECOND).await;
    let taken = others.take_free("7", &last.session).await;
    assert!(matches!(taken, Err(ClaimError::Taken)), "{taken:?}");
    faults.refuses_removals.store(false, Relaxed);
    tokio::time::sleep(5 * SECOND).await;
    for n in 0..50 {
        others.take_free(&n.to_string(), &last.session).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn claim_whose_answer_was_lost_leaves_no_entry_and_is_found_if_it_is_admitted() {
    let bus = Memory::new();
    let (spy, faults) = Spy::new(&bus);
    let one = Cluster::of("test").over(spy).start();
    let [(two, _)] = nodes_beside(&one, &bus).await;
    let (names, others) = (one.claims("names").build(), two.claims("names").build());
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

#[tokio::test(start_paused = true)]
async fn claims_are_written_again_before_they_expire() {
    let bus = Memory::new();
    let (spy, faults) = Spy::new(&bus);
    let one = Cluster::of("test").over(spy).start();
    one.up().await;
    let users = one.claims("users").build();
    let guest = Guest::new();
    take(&users, "ada", &guest).await;
    tokio::time::sleep(11 * 3600 * SECOND).await;
    assert_eq!(faults.puts.load(Relaxed), 1);
    tokio::time::sleep(37 * 3600 * SECOND).await;
    let puts = faults.puts.load(Relaxed);
    assert!((4..=5).contains(&puts), "{puts}");
    assert_eq!((guest.session.reason(), users.len()), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn node_whose_beats_were_interrupted_checks_its_claims() {
    // the inboxes of nodes hear nothing
    let bus = Memory::new().with_faults(|subject, _| {
        if subject.as_str().contains(".n.") {
            Fault::Drop
        } else {
            Fault::None
        }
    });
    let [(one, _), (two, _)] = nodes(&bus).await;
    let (users, others) = (one.claims("users").build(), two.claims("users").build());
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
    let [(one, _)] = nodes(&Memory::new()).await;
    let _users = one.claims("users").build();
    let _same = one.claims("users").build();
}
