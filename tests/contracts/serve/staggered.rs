//! Shutdown that closes connections evenly over a time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::serve;
use getty_test::{Peer, listener};
use tokio::time::Instant;

use super::{Records, app, recorded, run, sleep};
use crate::support::{echo, idle, soon};

#[tokio::test(start_paused = true)]
async fn staggered_close_spreads_the_closes_evenly() {
    let (listener, dialer) = listener();
    let closings: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let begin = Instant::now();
    let seen = Arc::clone(&closings);
    let app = recorded(
        &Records::default(),
        move |handle| {
            let seen = Arc::clone(&seen);
            handle.add_close_callback("time", 0, move |_| {
                seen.lock().unwrap().push(begin.elapsed());
            });
        },
        app(echo),
    );
    let serve = serve(listener, app).with_staggered_close(Duration::from_secs(10));
    let (served, stop) = run(serve);
    let _peers: Vec<_> = (0..10).map(|_| dialer.dial()).collect();
    idle().await;
    stop.send(()).unwrap();
    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (10, 0));
    let seconds: Vec<_> = closings
        .lock()
        .unwrap()
        .iter()
        .map(Duration::as_secs)
        .collect();
    assert_eq!(seconds, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn each_session_of_a_staggered_close_has_the_whole_drain_deadline() {
    let (listener, dialer) = listener();
    let serve = serve(listener, app(sleep))
        .with_staggered_close(Duration::from_secs(10))
        .with_drain_deadline(Duration::from_secs(20));
    let (served, stop) = run(serve);
    // One of the two is closed after 5 s. Its handler will end 19 s later.
    for peer in [dialer.dial(), dialer.dial()] {
        peer.send("19\n");
    }
    idle().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send(()).unwrap();
    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn staggered_close_does_not_wait_for_sessions_that_have_ended() {
    let (listener, dialer) = listener();
    let serve = serve(listener, app(echo)).with_staggered_close(Duration::from_secs(1000));
    let (served, stop) = run(serve);
    let peers: Vec<_> = (0..10).map(|_| dialer.dial()).collect();
    idle().await;
    stop.send(()).unwrap();
    idle().await;
    let before = Instant::now();
    peers.iter().for_each(Peer::finish);
    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (10, 0));
    assert!(before.elapsed() < Duration::from_secs(1));
}
