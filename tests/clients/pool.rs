use std::{collections::HashMap, time::Duration};

use getty::{
    BoxError, CloseReason, Connection, ConnectionHandle, Session,
    client::{Backoff, Client, Pick},
    service_fn,
};
use tokio::{io::DuplexStream, time::Instant};

use crate::support::{Place, deaf, echo, even, idle, ms, soon};

async fn full(client: &Client<String>, sessions: usize) {
    let filled = async {
        while client.sessions().len() < sessions {
            idle().await;
        }
    };
    soon(filled).await;
}

#[tokio::test(start_paused = true)]
async fn pool_is_filled_without_pauses_and_each_gap_refilled() {
    let place = Place::default();
    let _server = place.serve(echo());
    let begin = Instant::now();
    let client = even().with_sessions(5).connect(place.connector(), (), deaf);
    full(&client, 5).await;
    assert!(begin.elapsed() <= ms(2));
    let sessions = client.sessions();
    sessions[1].close();
    sessions[3].close_with(CloseReason::IdleTimeout);
    assert_eq!(client.sessions().len(), 3, "from that moment on");
    full(&client, 5).await;
    assert_eq!((place.dials(), place.most_open()), (7, 5));
    let ids: Vec<_> = sessions.iter().map(|session| session.id()).collect();
    let now: Vec<_> = client.sessions().iter().map(|one| one.id()).collect();
    assert_eq!(now[..3], [ids[0], ids[2], ids[4]]);
}

#[tokio::test(start_paused = true)]
async fn large_pool_dials_a_server_that_is_away_no_more_often_than_a_small_one() {
    let place = Place::default();
    let begin = Instant::now();
    let _client = even()
        .with_sessions(100)
        .connect(place.connector(), (), deaf);
    tokio::time::sleep(ms(4000)).await;
    assert_eq!(
        place.dials_since(begin),
        [0, 300, 900, 2100].map(ms),
        "one pause for all"
    );
}

#[tokio::test(start_paused = true)]
async fn session_that_cannot_be_kept_does_not_bring_a_storm_nor_down_the_others() {
    let place = Place::default();
    // lets in three, and closes the fourth at once
    let server = tower::limit::GlobalConcurrencyLimitLayer::new(3);
    let server = getty::ServiceBuilder::new()
        .load_shed()
        .layer(server)
        .service(echo());
    let _server = place.serve(server);
    let begin = Instant::now();
    let client = even()
        .with_sessions(4)
        .with_max_attempts(2)
        .connect(place.connector(), (), deaf);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(client.sessions().len(), 3);
    assert!(client.is_open(), "it goes on as long as there is one");
    let dials = place.dials_since(begin).len();
    assert!((120..=132).contains(&dials), "{dials}");
}

#[tokio::test(start_paused = true)]
async fn pool_whose_server_goes_counts_one_failure_and_not_one_a_session() {
    let place = Place::default();
    let server = place.serve(echo());
    let client = even()
        .with_sessions(50)
        .with_max_attempts(3)
        .connect(place.connector(), (), deaf);
    full(&client, 50).await;
    // twice, and not settled yet
    let mut server = Some(server);
    for pause in [ms(300), ms(600)] {
        let gone = Instant::now();
        drop(server.take());
        idle().await;
        assert_eq!(client.sessions().len(), 0);
        server = Some(place.serve(echo()));
        full(&client, 50).await;
        let took = gone.elapsed();
        assert!(took >= pause && took <= pause + ms(3), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_take_turns() {
    let place = Place::default();
    let _server = place.serve(echo());
    let client = even().with_sessions(3).connect(place.connector(), (), deaf);
    full(&client, 3).await;
    let mut picked: HashMap<u64, usize> = HashMap::new();
    for _ in 0..30 {
        *picked.entry(client.pick().unwrap().id()).or_default() += 1;
    }
    assert_eq!(picked.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn least_loaded_session_is_picked_and_ties_take_turns() {
    let place = Place::default();
    let _server = place.serve(echo());
    let load = |handle: &ConnectionHandle| handle.get::<usize>().unwrap_or(0);
    let client = even()
        .with_sessions(3)
        .with_pick(Pick::least(move |session: &Session<String>| load(session)))
        .connect(place.connector(), (), deaf);
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
    let place = Place::default();
    // reads nothing, so that what is sent waits
    let mut listener = place.listen();
    let client = Client::builder()
        .with_sessions(2)
        .with_pick(Pick::least_in_flight())
        .with_backoff(Backoff::default().with_seed(3))
        .connect(place.connector(), (), deaf);
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
async fn pool_that_is_let_in_and_thrown_out_again_does_not_dial_for_each_of_its_places() {
    let place = Place::default();
    let _server = place.serve(service_fn(|connection: Connection<DuplexStream>| async {
        drop(connection);
        Err::<getty::Closed, BoxError>("go away".into())
    }));
    let begin = Instant::now();
    let _client = even()
        .with_sessions(50)
        .connect(place.connector(), (), deaf);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    // the pauses of one session, and before each is noticed to have ended perhaps another dial
    let dials = place.dials_since(begin).len();
    assert!((120..=2 * 128).contains(&dials), "{dials}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_on_many_threads_always_get_a_session_or_the_end() {
    for stops in [true, false] {
        let place = Place::default();
        let server = place.serve(echo());
        let client = Client::builder()
            .with_sessions(3)
            .with_backoff(Backoff::new(ms(1), ms(2)))
            .connect(place.connector(), (), deaf);
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
        assert_eq!(place.open(), 0);
        assert!(place.most_open() <= 3);
        drop(server);
    }
}

#[tokio::test(start_paused = true)]
async fn session_that_our_side_has_finished_is_not_picked() {
    let place = Place::default();
    // nobody accepts, so that the peer does not end its direction in turn
    let _listener = place.listen();
    let client = even().with_sessions(2).connect(place.connector(), (), deaf);
    full(&client, 2).await;
    let finished = client.pick().unwrap();
    soon(finished.finish()).await.unwrap();
    for _ in 0..4 {
        assert_ne!(client.pick().unwrap().id(), finished.id());
    }
    assert_eq!(client.sessions().len(), 1);
}
