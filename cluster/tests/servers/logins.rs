use std::time::{Duration, Instant};

use getty_cluster::{ClaimError, Claims};
use getty_core::{CloseReason, Connection};
use tokio::task::JoinSet;

use crate::server::{Kind, Server, until};

/// Logins of users on three nodes at once.
async fn one_session_of_each_user_stays(kind: Kind, logins: usize, users: usize) {
    let server = Server::start(kind);
    let nodes = server.nodes::<3>().await;
    let claims = nodes.each_ref().map(|node| node.claims("users"));
    let connections: Vec<_> = (0..logins).map(|_| Connection::new(())).collect();
    let mut tasks = JoinSet::new();
    for (n, connection) in connections.iter().enumerate() {
        let (claims, handle) = (claims[n % 3].clone(), connection.handle().clone());
        let user = format!("user {}", n % users);
        tasks.spawn(async move {
            loop {
                match claims.take(&user, &handle).await {
                    Err(ClaimError::Contended) => {}
                    Ok(_) | Err(ClaimError::Closed) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    tasks.join_all().await;
    let taken_over: u64 = nodes.iter().map(|node| node.snapshot().taken_over).sum();
    println!("{kind:?}: {taken_over} sessions were taken over");
    let is_open = |connection: &Connection<()>| connection.handle().reason().is_none();
    until(|| connections.iter().filter(|c| is_open(c)).count() == users).await;
    for user in 0..users {
        let of_user = connections.iter().skip(user).step_by(users);
        assert_eq!(of_user.filter(|c| is_open(c)).count(), 1, "user {user}");
    }
    assert_eq!(claims.iter().map(Claims::len).sum::<usize>(), users);
}

async fn takeover_time(kind: Kind) {
    let server = Server::start(kind);
    let [one, two] = server.nodes().await;
    let claims = [one.claims("users"), two.claims("users")];
    let mut last = Connection::new(());
    claims[0].take("ada", last.handle()).await.unwrap();
    let mut times = Vec::new();
    for n in 1..200 {
        let next = Connection::new(());
        let began = Instant::now();
        claims[n % 2].take("ada", next.handle()).await.unwrap();
        times.push(began.elapsed());
        assert_eq!(last.handle().reason(), Some(CloseReason::TakenOver));
        last = next;
    }
    times.sort();
    let (median, slow): (Duration, Duration) = (times[100], times[197]);
    println!("{kind:?}: takeover {median:?}, p99 {slow:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server and redis-server"]
async fn one_session_of_each_user_stays_over_redis() {
    one_session_of_each_user_stays(Kind::Redis, 1000, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server and redis-server"]
async fn later_login_over_redis_ends_the_earlier_session() {
    takeover_time(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server and redis-server"]
async fn one_session_of_each_user_stays_over_nats() {
    one_session_of_each_user_stays(Kind::Nats, 1000, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server and redis-server"]
async fn later_login_over_nats_ends_the_earlier_session() {
    takeover_time(Kind::Nats).await;
}
