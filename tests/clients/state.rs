//! The state of a client and its watchers.

use std::sync::{Arc, Mutex};

use getty::client::{Client, ClientBuilder, ClientState, StateWatch};
use tokio::time::Instant;

use crate::support::{Host, echo, idle, ignoring_client, ms, soon, without_jitter};

#[test]
fn client_types_are_send_and_sync() {
    const fn assert_send_sync<T: Send + Sync + 'static>() {}
    const fn assert_clone<T: Clone>() {}
    const fn assert_send<T: Send>() {}
    assert_send_sync::<Client<String>>();
    // Messages need not be `Sync`.
    assert_send_sync::<Client<std::cell::Cell<u8>>>();
    assert_send_sync::<StateWatch>();
    assert_send_sync::<ClientState>();
    assert_clone::<Client<std::cell::Cell<u8>>>();
    assert_send::<ClientBuilder<String>>();
}

#[tokio::test(start_paused = true)]
async fn watcher_receives_each_state() {
    let host = Host::default();
    let start = Instant::now();
    let client = without_jitter()
        .with_sessions(2)
        .connect(host.connector(), (), ignoring_client);
    let received = Arc::new(Mutex::new(Vec::new()));
    let states = Arc::clone(&received);
    let mut watch = client.watch();
    tokio::spawn(async move {
        while let Some(state) = watch.changed().await {
            states.lock().unwrap().push(match state {
                ClientState::Waiting(until) => {
                    format!("waiting until {}", (until - start).as_millis())
                }
                state => state.to_string(),
            });
        }
    });
    let take = || std::mem::take(&mut *received.lock().unwrap());
    idle().await;
    assert_eq!(take(), ["waiting until 300"]);
    let server = host.serve(echo());
    tokio::time::sleep(ms(10_000) - start.elapsed()).await;
    let states = take();
    assert_eq!(states.last().unwrap(), "open (2 so far)");
    drop(server);
    tokio::time::sleep(ms(10_100) - start.elapsed()).await;
    assert_eq!(take(), ["waiting until 10300"]);
    client.stop();
    soon(client.stopped()).await;
    idle().await;
    assert_eq!(take(), ["stopped"]);
}

#[tokio::test(start_paused = true)]
async fn watcher_shows_whether_the_client_is_open() {
    let host = Host::default();
    let server = host.serve(echo());
    let client = without_jitter().connect(host.connector(), (), ignoring_client);
    assert!(!client.is_open());
    let mut watch = client.watch();
    assert!(soon(watch.wait_for(ClientState::is_open)).await.is_open());
    assert!(client.is_open());
    drop(server);
    assert!(
        !soon(watch.wait_for(|state| !state.is_open()))
            .await
            .is_open()
    );
    assert!(!client.is_open());
    assert!(client.sessions().is_empty());
}
