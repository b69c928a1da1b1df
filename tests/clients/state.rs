use std::sync::{Arc, Mutex};

use getty::client::{Client, ClientBuilder, State, StateWatch};
use tokio::time::Instant;

use crate::support::{Place, deaf, echo, even, idle, ms, soon};

#[test]
fn handles_go_anywhere() {
    const fn anywhere<T: Send + Sync + 'static>() {}
    const fn cloned<T: Clone>() {}
    anywhere::<Client<String>>();
    // messages need not be shared to be sent
    anywhere::<Client<std::cell::Cell<u8>>>();
    anywhere::<StateWatch>();
    anywhere::<State>();
    cloned::<Client<std::cell::Cell<u8>>>();
    const fn sent<T: Send>() {}
    sent::<ClientBuilder<String>>();
}

#[tokio::test(start_paused = true)]
async fn each_state_is_seen_by_who_watches() {
    let place = Place::default();
    let begin = Instant::now();
    let client = even().with_sessions(2).connect(place.connector(), (), deaf);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let states = Arc::clone(&seen);
    let mut watch = client.watch();
    tokio::spawn(async move {
        while let Some(state) = watch.changed().await {
            states.lock().unwrap().push(match state {
                State::Waiting(until) => {
                    format!("waiting until {}", (until - begin).as_millis())
                }
                state => state.to_string(),
            });
        }
    });
    let take = || std::mem::take(&mut *seen.lock().unwrap());
    idle().await;
    assert_eq!(take(), ["waiting until 300"]);
    let server = place.serve(echo());
    tokio::time::sleep(ms(10_000) - begin.elapsed()).await;
    let states = take();
    assert_eq!(states.last().unwrap(), "open (2 so far)");
    drop(server);
    tokio::time::sleep(ms(10_100) - begin.elapsed()).await;
    assert_eq!(take(), ["waiting until 10300"]);
    client.stop();
    soon(client.stopped()).await;
    idle().await;
    assert_eq!(take(), ["stopped"]);
}

#[tokio::test(start_paused = true)]
async fn health_is_visible_apart_from_a_calls_error() {
    let place = Place::default();
    let server = place.serve(echo());
    let client = even().connect(place.connector(), (), deaf);
    assert!(!client.is_open());
    let mut watch = client.watch();
    assert!(soon(watch.wait_for(State::is_open)).await.is_open());
    assert!(client.is_open());
    drop(server);
    assert!(
        !soon(watch.wait_for(|state| !state.is_open()))
            .await
            .is_open()
    );
    assert!(!client.is_open());
    let session = client.sessions();
    assert!(session.is_empty());
}
