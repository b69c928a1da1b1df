//! Clients connect with the same stack as servers. A failure must have a cause.

use std::{
    future::pending,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    BoxError, BoxPipeline, BoxTransport, CloseReason, Closed, CodecLayer, Connection, LinkLayer,
    OpenError, Pipeline, Request, ServiceBuilder, Session, SessionLayer, Transport,
    layers::OnOpenLayer, net, serve, service_fn, session::NotOpened,
};
use getty_test::{Stream, messages, stream};
use tokio::sync::mpsc;

use crate::support::{connector, echo, idle, lines, open, soon};

/// A client's stack whose handler forwards its messages.
fn client<T: Transport + Send + 'static>(
    link: LinkLayer<String>,
    got: mpsc::Sender<String>,
) -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(link)
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<String>| {
            let got = got.clone();
            async move {
                got.send(request.into_message()).await?;
                Ok::<Option<String>, BoxError>(None)
            }
        })
}

fn server<T: Transport + Send + 'static>() -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(echo)
}

#[tokio::test(start_paused = true)]
async fn client_and_server_use_the_same_layers() {
    let (listener, dialer) = net::memory(16);
    let _served = tokio::spawn(serve(listener, server()).into_future());
    let (got, mut answers) = mpsc::channel(1);
    let (session, task) = getty::connect(dialer, (), |link| client(link, got))
        .await
        .unwrap();
    assert!(session.is_open());
    for n in 0..100 {
        let message = format!("message {n}");
        let sent = soon(session.send(message.clone())).await.unwrap();
        assert_eq!(sent.bytes, message.len() + 1);
        assert_eq!(soon(answers.recv()).await, Some(message));
    }
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert_eq!(closed.stats.messages_in, 100);
}

#[tokio::test(start_paused = true)]
async fn failure_of_the_connector_differs_from_failure_of_the_stack() {
    let refuses = service_fn(|_: ()| async {
        Err::<Connection<Stream>, _>(io::Error::from(io::ErrorKind::ConnectionRefused))
    });
    let (got, _answers) = mpsc::channel(1);
    let error = getty::connect(refuses, (), |link| client(link, got))
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Connect(_)));
    let source = std::error::Error::source(&error).unwrap();
    let source: &io::Error = source.downcast_ref().unwrap();
    assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn stack_without_the_link_fails_without_a_session() {
    let (transport, peer) = stream();
    let unlinked = getty::connect(connector(), transport, |_: LinkLayer<String>| {
        server::<Stream>()
    });
    let error = soon(unlinked).await.unwrap_err();
    assert!(matches!(error, OpenError::NoLink));
    idle().await;
    assert!(peer.is_gone(), "the connection was not dropped");
}

#[tokio::test(start_paused = true)]
async fn error_of_the_stack_before_the_session_opens_is_returned() {
    let (transport, peer) = stream();
    let failed = getty::connect(connector(), transport, |_: LinkLayer<String>| {
        service_fn(|_: Connection<Stream>| async { Err::<Closed, _>("no handshake") })
    });
    match soon(failed).await {
        Err(OpenError::Open(source)) => assert_eq!(source.to_string(), "no handshake"),
        other => panic!("{other:?}"),
    }
    assert!(peer.is_gone());
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_stack_before_the_session_opens_is_returned_as_an_error() {
    let (transport, peer) = stream();
    let failed = getty::connect(connector(), transport, |_: LinkLayer<String>| {
        service_fn(|connection: Connection<Stream>| async move {
            assert!(connection.handle().is_closing(), "a bad layer");
            Err::<Closed, _>("closing")
        })
    });
    assert!(matches!(soon(failed).await, Err(OpenError::Open(_))));
    assert!(peer.is_gone());
}

#[tokio::test(start_paused = true)]
async fn error_of_an_open_hook_is_in_the_source_chain() {
    let (transport, _peer) = stream();
    let failed = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(link)
            .layer(OnOpenLayer::new(|_session: Session<String>| async {
                Err::<(), _>(io::Error::other("bad login"))
            }))
            .layer(SessionLayer::new())
            .service_fn(echo)
    });
    let Err(OpenError::Open(error)) = soon(failed).await else {
        panic!("the hook refuses");
    };
    let not_opened: &NotOpened = error.downcast_ref().unwrap();
    assert_eq!(*not_opened.reason(), CloseReason::Refused);
    let cause = std::error::Error::source(not_opened).unwrap();
    assert!(cause.is::<io::Error>(), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn dropped_connect_releases_everything() {
    let (transport, peer) = stream();
    let reasons: Arc<Mutex<Vec<CloseReason>>> = Arc::default();
    let seen = Arc::clone(&reasons);
    let connecting = tokio::spawn(getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .map_request(move |connection: Connection<Stream>| {
                let seen = Arc::clone(&seen);
                connection
                    .handle()
                    .add_close_callback("test", 0, move |closed| {
                        seen.lock().unwrap().push(closed.reason.clone());
                    });
                connection
            })
            .layer(CodecLayer::new(lines()))
            .layer(link)
            .layer(SessionLayer::per_session())
            .service(service_fn(|_: Session<String>| async {
                pending::<()>().await;
                Ok::<_, BoxError>(service_fn(echo))
            }))
    }));
    idle().await;
    assert!(!peer.is_gone());
    connecting.abort();
    idle().await;
    assert!(peer.is_gone());
    assert_eq!(*reasons.lock().unwrap(), [CloseReason::Refused]);
}

#[tokio::test(start_paused = true)]
async fn session_continues_when_its_task_is_detached() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    drop(task);
    peer.send("hello\n");
    assert_eq!(soon(peer.line()).await, "hello");
    session.close();
    assert_eq!(soon(session.closed()).await.reason, CloseReason::Local);
}

#[tokio::test(start_paused = true)]
async fn stored_session_does_not_keep_the_connection_open() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    let kept = vec![session.clone(); 10];
    peer.finish();
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
    assert!(peer.is_gone());
    assert!(kept.iter().all(|session| session.is_closed()));
    assert_eq!(session.stats().messages_in, 0);
}

#[tokio::test(start_paused = true)]
async fn session_that_ends_after_its_opening_is_no_connect_error() {
    // The session opens. The peer ends it before the client is polled again.
    let (transport, peer) = stream();
    peer.finish();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
    assert!(session.is_open() && session.is_closed());
}

#[tokio::test(start_paused = true)]
async fn connect_waits_until_the_stack_is_ready() {
    let (transport, peer) = stream();
    let limit = Arc::new(tokio::sync::Semaphore::new(0));
    let layer = tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&limit));
    let connecting = tokio::spawn(getty::connect(connector(), transport, |link| {
        let (got, _) = mpsc::channel(1);
        ServiceBuilder::new()
            .layer(layer)
            .service(client::<Stream>(link, got))
    }));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!connecting.is_finished() && !peer.is_gone());
    limit.add_permits(1);
    let (session, _task) = soon(connecting).await.unwrap().unwrap();
    assert!(session.is_open());
    assert_eq!(limit.available_permits(), 0, "the session holds the permit");
}

#[tokio::test(start_paused = true)]
async fn boxed_transport_behaves_as_its_inner_transport() {
    let (transport, peer) = stream();
    let boxed = BoxTransport::new(transport);
    let (session, task) = open(boxed, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.send_in_pieces("hello\n", 1);
    assert_eq!(soon(peer.line()).await, "hello");
    session.close();
    let _ = soon(task).await;
    assert!(peer.is_shut() && peer.is_gone());

    let (transport, peer) = messages(getty::transport::Framing::Datagrams);
    let boxed = BoxTransport::new(transport);
    let (session, _task) = open(boxed, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.send("one\ntwo\n");
    peer.send("three");
    assert_eq!(soon(peer.text()).await, "three\n");
    assert_eq!(
        session.stats().skipped,
        1,
        "the session still skips as for datagrams"
    );
}

#[tokio::test(start_paused = true)]
async fn boxed_stack_serves_any_transport() {
    let shared = BoxPipeline::new(server());
    let (transport, peer) = stream();
    let task = tokio::spawn(run(shared.clone(), transport));
    peer.send("hello\n");
    peer.finish();
    assert_eq!(soon(task).await.unwrap(), CloseReason::PeerClosed);
    assert_eq!(peer.output(), "hello\n");

    let (transport, peer) = messages(getty::transport::Framing::Messages);
    let task = tokio::spawn(run(shared, transport));
    peer.send("hello\n");
    peer.finish();
    assert_eq!(soon(task).await.unwrap(), CloseReason::PeerClosed);
    assert_eq!(soon(peer.text()).await, "hello\n");

    async fn run<T: Transport + Send + 'static>(stack: BoxPipeline, transport: T) -> CloseReason {
        let connection = Connection::new(transport);
        tower::ServiceExt::oneshot(stack, connection)
            .await
            .unwrap()
            .reason
    }
}
