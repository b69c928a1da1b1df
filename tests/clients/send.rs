use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    BoxError, CloseReason, CodecLayer, Pipeline, Request, SendError, ServiceBuilder, SessionLayer,
    Transport,
    client::{Client, ClientSendError, NoSession, Pick},
    codec::Lines,
};
use tokio::sync::mpsc;

use crate::support::{Place, deaf, echo, even, idle, ms, soon};

/// Passes on what it gets.
fn noting<T: Transport + Send + 'static>(
    got: mpsc::UnboundedSender<String>,
) -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<String>| {
            let _ = got.send(request.into_message());
            async { Ok::<Option<String>, BoxError>(None) }
        })
}

/// A client with a session to a server that reads nothing, and a send on it that waits behind what fills the pipe.
async fn stuck(
    reoffer: bool,
) -> (
    Place,
    Client<String>,
    getty::Connection<tokio::io::DuplexStream>,
    tokio::task::JoinHandle<Result<getty::Sent, ClientSendError<String>>>,
) {
    let place = Place::default();
    let mut listener = place.listen();
    let client = even()
        .with_reoffer(reoffer)
        .connect(place.connector(), (), deaf);
    let session = soon(client.session()).await.unwrap();
    let accept = std::future::poll_fn(|cx| getty::Listener::poll_accept(&mut listener, cx));
    let accepted = soon(accept).await.unwrap();
    // fills the pipe, and the write buffer up to its high watermark
    while session.try_send("x".repeat(8000)).is_ok() {
        idle().await;
    }
    while !matches!(session.try_send(String::new()), Err(SendError::Full(_))) {
        idle().await;
    }
    let sender = client.clone();
    let sending = tokio::spawn(async move { sender.send("last".to_owned()).await });
    idle().await;
    assert!(!sending.is_finished());
    (place, client, accepted, sending)
}

#[tokio::test(start_paused = true)]
async fn send_waits_for_a_session() {
    let place = Place::default();
    let client = even().connect(place.connector(), (), deaf);
    let sender = client.clone();
    let sending = tokio::spawn(async move { sender.send("hello".to_owned()).await });
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(!sending.is_finished());
    let (got, mut received) = mpsc::unbounded_channel();
    let _server = place.serve(noting(got));
    assert_eq!(soon(sending).await.unwrap().unwrap().bytes, 6);
    assert_eq!(soon(received.recv()).await.unwrap(), "hello");
}

#[tokio::test(start_paused = true)]
async fn message_that_its_session_did_not_take_is_handed_back() {
    let (place, client, accepted, sending) = stuck(false).await;
    let (got, mut received) = mpsc::unbounded_channel();
    let _server = place.serve(noting(got));
    drop(accepted);
    let error = soon(sending).await.unwrap().unwrap_err();
    assert!(matches!(
        error,
        ClientSendError::Session(SendError::Closed { .. })
    ));
    assert_eq!(error.into_message().as_deref(), Some("last"));
    soon(client.send("another".to_owned())).await.unwrap();
    assert_eq!(soon(received.recv()).await.unwrap(), "another");
}

#[tokio::test(start_paused = true)]
async fn message_that_its_session_did_not_take_is_offered_to_the_next_on_request() {
    let (place, client, accepted, sending) = stuck(true).await;
    let (got, mut received) = mpsc::unbounded_channel();
    let server = place.serve(noting(got));
    drop(accepted);
    soon(sending).await.unwrap().unwrap();
    assert_eq!(soon(received.recv()).await.unwrap(), "last");
    soon(client.send("another".to_owned())).await.unwrap();
    assert_eq!(soon(received.recv()).await.unwrap(), "another", "but once");
    drop((server, client));
    assert_eq!(soon(received.recv()).await, None);
}

#[tokio::test(start_paused = true)]
async fn message_of_which_a_part_has_left_is_never_offered_again() {
    let place = Place::default();
    let mut listener = place.listen();
    let client = even()
        .with_reoffer(true)
        .connect(place.connector(), (), deaf);
    let sender = client.clone();
    let sending = tokio::spawn(async move { sender.send("x".repeat(8000)).await });
    let accept = std::future::poll_fn(|cx| getty::Listener::poll_accept(&mut listener, cx));
    let accepted = soon(accept).await.unwrap();
    idle().await;
    let (got, mut received) = mpsc::unbounded_channel();
    let server = place.serve(noting(got));
    // the pipe holds 1024 bytes of it
    drop(accepted);
    let error = soon(sending).await.unwrap().unwrap_err();
    assert!(error.into_message().is_none());
    soon(client.send("another".to_owned())).await.unwrap();
    assert_eq!(soon(received.recv()).await.unwrap(), "another");
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn message_is_handed_back_when_there_will_be_no_session() {
    let place = Place::default();
    let client = even().connect(place.connector(), (), deaf);
    let sender = client.clone();
    let sending = tokio::spawn(async move { sender.send("hello".to_owned()).await });
    idle().await;
    client.stop();
    match soon(sending).await.unwrap() {
        Err(ClientSendError::NoSession {
            message,
            source: NoSession::Stopped,
        }) => assert_eq!(message, "hello"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_restarts_under_load_lose_nothing_silently_and_send_nothing_twice() {
    let place = Place::default();
    let client = even()
        .with_sessions(3)
        .with_reoffer(true)
        .connect(place.connector(), (), deaf);
    let told: Arc<Mutex<HashSet<String>>> = Arc::default();
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let (client, told) = (client.clone(), Arc::clone(&told));
            tokio::spawn(async move {
                let mut unknown = 0;
                for n in 0.. {
                    let message = format!("{sender}-{n}");
                    match client.send(message.clone()).await {
                        Ok(_) => assert!(told.lock().unwrap().insert(message)),
                        // it may have left, and nobody knows
                        Err(ClientSendError::Session(SendError::Io(_))) => unknown += 1,
                        Err(ClientSendError::Session(SendError::Closed {
                            message: None, ..
                        })) => unknown += 1,
                        Err(ClientSendError::NoSession { message: back, .. }) => {
                            assert_eq!(back, message);
                            return (n, unknown);
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                    tokio::time::sleep(ms(25)).await;
                }
                unreachable!("the client is stopped")
            })
        })
        .collect();

    let (got, mut received) = mpsc::unbounded_channel();
    for restart in 0..50 {
        let server = place.serve(noting(got.clone()));
        tokio::time::sleep(ms(6000 + 7 * restart)).await;
        drop(server);
        tokio::time::sleep(ms(100)).await;
    }
    client.stop();
    soon(client.stopped()).await;
    drop(got);
    let (mut sent, mut unknown) = (0, 0);
    for sender in senders {
        let (n, lost) = soon(sender).await.unwrap();
        sent += n;
        unknown += lost;
    }
    let mut seen = HashSet::new();
    while let Some(message) = soon(received.recv()).await {
        assert!(seen.insert(message), "received twice");
    }
    assert!(sent > 50_000, "{sent}");
    let told = told.lock().unwrap();
    assert_eq!(told.len() + unknown, sent, "each has its outcome");
    assert!(seen.len() <= sent);
    // what the server got but was not told to have left is of unknown fate
    assert!(seen.difference(&told).count() <= unknown);
}

#[tokio::test(start_paused = true)]
async fn session_of_a_clients_own_choosing_may_be_waited_for_and_given_up() {
    let place = Place::default();
    let client = even().connect(place.connector(), (), deaf);
    for _ in 0..100 {
        let waited = tokio::time::timeout(ms(10), client.session()).await;
        assert!(waited.is_err());
    }
    let _server = place.serve(echo());
    let session = soon(client.session()).await.unwrap();
    session.close_with(CloseReason::Local);
    assert!(client.pick().is_none(), "from that moment on");
    assert_ne!(
        soon(client.session()).await.unwrap().id(),
        session.id(),
        "never one that is closing"
    );
}

#[tokio::test(start_paused = true)]
async fn message_for_a_session_that_is_about_to_finish_waits_for_the_next() {
    let place = Place::default();
    let mut listener = place.listen();
    let picks = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&picks);
    let pick = Pick::least(move |_| {
        let picks = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        assert!(picks < 1000, "it is picked over and over, in one turn");
        0
    });
    let client = even()
        .with_reoffer(true)
        .with_pick(pick)
        .connect(place.connector(), (), deaf);
    let session = soon(client.session()).await.unwrap();
    let accept = std::future::poll_fn(|cx| getty::Listener::poll_accept(&mut listener, cx));
    let accepted = soon(accept).await.unwrap();
    // the peer reads nothing, so that the end of our direction waits for its turn
    session.try_send("x".repeat(8000)).unwrap();
    let finishing = session.clone();
    let finishing = tokio::spawn(async move { finishing.finish().await });
    idle().await;
    assert!(!finishing.is_finished());
    let sender = client.clone();
    let sending = tokio::spawn(async move { sender.send("last".to_owned()).await });
    idle().await;
    assert!(!sending.is_finished(), "{:?}", sending.await);

    let (got, mut received) = mpsc::unbounded_channel();
    let _server = place.serve(noting(got));
    drop(accepted);
    soon(sending).await.unwrap().unwrap();
    assert_eq!(soon(received.recv()).await.unwrap(), "last");
    assert!(soon(finishing).await.unwrap().is_err());
}
