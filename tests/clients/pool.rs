//! Pools: a client with several sessions.

use std::{collections::HashMap, time::Duration};

use getty::{
    BoxError, CloseReason, Connection, ConnectionHandle, Session,
    client::{Backoff, Client, Pick},
    service_fn,
};
use tokio::{io::DuplexStream, time::Instant};

use crate::support::{Host, echo, idle, ignoring_client, ms, soon, without_jitter};

/// Waits until the client has this number of sessions.
async fn full(client: &Client<String>, sessions: usize) {
    let filled = async {
        while client.sessions().len() < sessions {
            idle().await;
        }
    };
    soon(filled).await;
}

#[tokio::test(start_paused = true)]
async fn pool_fills_without_pauses_and_replaces_closed_sessions() {
    let host = Host::default();
    let _server = host.serve(echo());
    let start = Instant::now();
    let client = without_jitter()
        .with_sessions(5)
        .connect(host.connector(), (), ignoring_client);
    full(&client, 5).await;
    assert!(start.elapsed() <= ms(2));
    let sessions = client.sessions();
    sessions[1].close();
    sessions[3].close_with(CloseReason::IdleTimeout);
    assert_eq!(
        client.sessions().len(),
        3,
        "closed sessions leave the pool at once"
    );
    full(&client, 5).await;
    assert_eq!((host.dials(), host.most_open()), (7, 5));
    let ids: Vec<_> = sessions.iter().map(|session| session.id()).collect();
    let now: Vec<_> = client.sessions().iter().map(|one| one.id()).collect();
    assert_eq!(now[..3], [ids[0], ids[2], ids[4]]);
}

/// Each client makes one attempt at a time
/// (design.md: Why is there one attempt at a time for a whole pool?).
#[tokio::test(start_paused = true)]
async fn large_pool_dials_a_stopped_server_no_more_often_than_a_small_one() {
    let host = Host::default();
    let start = Instant::now();
    let _client =
        without_jitter()
            .with_sessions(100)
            .connect(host.connector(), (), ignoring_client);
    tokio::time::sleep(ms(4000)).await;
    assert_eq!(
        host.dials_since(start),
        [0, 300, 900, 2100].map(ms),
        "one pause for the whole pool"
    );
}

#[tokio::test(start_paused = true)]
async fn refused_session_causes_no_reconnect_storm_and_does_not_affect_the_others() {
    let host = Host::default();
    // The server accepts three connections and closes the fourth at once.
    let server = tower::limit::GlobalConcurrencyLimitLayer::new(3);
    let server = getty::ServiceBuilder::new()
        .load_shed()
        .layer(server)
        .service(echo());
    let _server = host.serve(server);
    let start = Instant::now();
    let client = without_jitter()
        .with_sessions(4)
        .with_max_attempts(2)
        .connect(host.connector(), (), ignoring_client);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(client.sessions().len(), 3);
    assert!(
        client.is_open(),
        "the limit of attempts does not apply while a session is open"
    );
    let dials = host.dials_since(start).len();
    assert!((120..=132).contains(&dials), "{dials}");
}

#[tokio::test(start_paused = true)]
async fn loss_of_the_server_counts_as_one_failure_for_the_whole_pool() {
    let host = Host::default();
    let server = host.serve(echo());
    let client = without_jitter()
        .with_sessions(50)
        .with_max_attempts(3)
        .connect(host.connector(), (), ignoring_client);
    full(&client, 50).await;
    // The second loss comes before the sessions are open for long enough to reset the backoff.
    let mut server = Some(server);
    for pause in [ms(300), ms(600)] {
        let stopped = Instant::now();
        drop(server.take());
        idle().await;
        assert_eq!(client.sessions().len(), 0);
        server = Some(host.serve(echo()));
        full(&client, 50).await;
        let elapsed = stopped.elapsed();
        assert!(elapsed >= pause && elapsed <= pause + ms(3), "{elapsed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pick_rotates_through_the_sessions() {
    let host = Host::default();
    let _server = host.serve(echo());
    let client = without_jitter()
        .with_sessions(3)
        .connect(host.connector(), (), ignoring_client);
    full(&client, 3).await;
    let mut picked: HashMap<u64, usize> = HashMap::new();
    for _ in 0..30 {
        *picked.entry(client.pick().unwrap().id()).or_default() += 1;
    }
    assert_eq!(picked.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn least_loaded_session_is_picked_and_ties_rotate() {
    let host = Host::default();
    let _server = host.serve(echo());
    let load = |handle: &ConnectionHandle| handle.get::<usize>().unwrap_or(0);
    let client = without_jitter()
        .with_sessions(3)
        .with_pick(Pick::least(move |session: &Session<String>| load(session)))
        .connect(host.connector(), (), ignoring_client);
    full(&client, 3).await;
    for _ in 0..30 {
        let session = client.pick().unwrap();
        session.insert(load(&session) + 1);
    }
    let loads: Vec<_> = client.sessions().iter().map(|one| load(one)).collect();
    assert_eq!(loads, [10, 10, 10]);
    client.sessions()[1].insert(0_usize);
    for _ in 0..10 {
        let session = client.pick().unwrap();
        assert_eq!(session.id(), client.sessions()[1].id());
        session.insert(load(&session) + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn session_with_the_fewest_queued_messages_is_picked() {
    let host = Host::default();
    // The server reads nothing, so sent messages must wait.
    let mut listener = host.listen();
    let client = Client::builder()
        .with_sessions(2)
        .with_pick(Pick::least_in_flight())
        .with_backoff(Backoff::default().with_seed(3))
        .connect(host.connector(), (), ignoring_client);
    full(&client, 2).await;
    let mut accepted = Vec::new();
    for _ in 0..2 {
        let accept = std::future::poll_fn(|cx| getty::Listener::poll_accept(&mut listener, cx));
        accepted.push(soon(accept).await.unwrap());
    }
    for n in 0..40 {
        client.pick().unwrap().try_send(format!("{n}")).unwrap();
    }
    let sessions = client.sessions();
    let queued: Vec<_> = sessions.iter().map(Session::queued).collect();
    assert_eq!(queued, [20, 20]);
}

#[tokio::test(start_paused = true)]
async fn pool_that_is_accepted_and_closed_does_not_dial_once_per_session() {
    let host = Host::default();
    let _server = host.serve(service_fn(|connection: Connection<DuplexStream>| async {
        drop(connection);
        Err::<getty::Closed, BoxError>("go away".into())
    }));
    let start = Instant::now();
    let _client = without_jitter()
        .with_sessions(50)
        .connect(host.connector(), (), ignoring_client);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    // The dials of one session. Each may be followed by one more dial before the close is noticed.
    let dials = host.dials_since(start).len();
    assert!((120..=2 * 128).contains(&dials), "{dials}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_on_many_threads_always_get_a_session_or_an_error() {
    for stops in [true, false] {
        let host = Host::default();
        let server = host.serve(echo());
        let client = Client::builder()
            .with_sessions(3)
            .with_backoff(Backoff::new(ms(1), ms(2)))
            .connect(host.connector(), (), ignoring_client);
        let callers: Vec<_> = (0..8)
            .map(|caller| {
                let client = client.clone();
                tokio::spawn(async move {
                    for n in 0..200 {
                        match client.session().await {
                            Ok(session) if (n + caller) % 3 == 0 => session.close(),
                            Ok(session) => drop(session.send("hello".to_owned()).await),
                            Err(_) => return n,
                        }
                        tokio::task::yield_now().await;
                    }
                    200
                })
            })
            .collect();
        if stops {
            let session = client.session().await.unwrap();
            session.closed().await;
            client.stop();
        }
        for caller in callers {
            let rounds = caller.await.unwrap();
            assert!(stops || rounds == 200);
        }
        client.stop();
        client.stopped().await;
        assert_eq!(host.open(), 0);
        assert!(host.most_open() <= 3);
        drop(server);
    }
}

#[tokio::test(start_paused = true)]
async fn finished_session_is_not_picked() {
    let host = Host::default();
    // The listener accepts nothing. So the peer cannot end its direction.
    let _listener = host.listen();
    let client = without_jitter()
        .with_sessions(2)
        .connect(host.connector(), (), ignoring_client);
    full(&client, 2).await;
    let finished = client.pick().unwrap();
    soon(finished.finish()).await.unwrap();
    for _ in 0..4 {
        assert_ne!(client.pick().unwrap().id(), finished.id());
    }
    assert_eq!(client.sessions().len(), 1);
}
