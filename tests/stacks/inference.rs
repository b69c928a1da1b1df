//! Stacks that must compile without type annotations, except for the arguments of closures.

use std::{convert::Infallible, time::Duration};

use bytes::{Bytes, BytesMut};
use getty::{
    BoxError, BoxPipeline, BoxTransport, Closed, CodecLayer, Connection, Pipeline, Reply, Request,
    Service, ServiceBuilder, Session, SessionLayer, Transport, connect, layers::HandleErrorLayer,
    net, serve, serve_all,
};
use tokio::{io::DuplexStream, net::TcpListener};
use tokio_util::codec::{BytesCodec, LinesCodec};
use tower::{ServiceExt, timeout::TimeoutLayer};

use crate::support::{Server, open};

/// Returns a stack for any transport.
fn app<T: Transport + Send + 'static>() -> impl Pipeline<T> + Clone + Sync {
    ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new().with_in_flight(4))
        .timeout(Duration::from_secs(1))
        .concurrency_limit(64)
        .service_fn(|request: Request<String>| async move {
            Ok::<_, BoxError>(Some(request.into_message()))
        })
}

/// Returns the same stack. The bounds of `Pipeline` are written out.
fn app_with_explicit_bounds<T: Transport + Send + 'static>()
-> impl Service<Connection<T>, Response = Closed, Error = BoxError, Future: Send + 'static>
+ Clone
+ Send
+ Sync
+ 'static {
    app().map_err(Into::into)
}

async fn echo_as_vec(request: Request<String>) -> Result<Vec<String>, Infallible> {
    Ok(vec![request.into_message()])
}

/// Serves one connection, sends `line` and returns the reply.
async fn reply(stack: impl Pipeline<DuplexStream>, line: &str) -> String {
    let server = Server::start(stack);
    let mut peer = server.dial().await;
    peer.say(line).await;
    peer.receive().await.expect("the server replies")
}

#[tokio::test]
async fn one_function_returns_the_stack_for_any_transport() {
    assert_eq!(reply(app(), "hello").await, "hello");
    assert_eq!(reply(app_with_explicit_bounds(), "hello").await, "hello");
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _serve = serve(tcp, app());
}

#[tokio::test]
async fn one_stack_value_serves_several_transports() {
    let stack = ServiceBuilder::new()
        .concurrency_limit(9)
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(echo_as_vec);
    assert_eq!(reply(stack.clone(), "hello").await, "hello");
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (memory, _) = net::memory(1024);
    let _serve = serve_all((tcp, memory), stack);
}

#[tokio::test]
async fn message_types_may_differ_if_the_codec_encodes_several_types() {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(BytesCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<BytesMut, Bytes>| async move {
            Ok::<_, BoxError>(Reply::one(request.into_message().freeze()))
        });
    assert_eq!(reply(stack, "hello").await, "hello");
}

#[tokio::test]
async fn sent_type_may_be_any_that_a_generic_codec_encodes() {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(|_: Request<String, &'static str>| async move { Ok::<_, BoxError>(Some("x")) });
    assert_eq!(reply(stack, "hello").await, "x");
}

#[tokio::test(start_paused = true)]
async fn per_session_stack_need_not_be_clone() {
    let mut stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::per_session())
        .service_fn(|session: Session<String>| async move {
            if session.name().starts_with("bad") {
                return Err(BoxError::from("not today"));
            }
            let mut n = 0;
            Ok(ServiceBuilder::new()
                .rate_limit(5, Duration::from_secs(1))
                .service_fn(move |request: Request<String>| {
                    n += 1;
                    async move { Ok::<_, BoxError>(Some(format!("{n} {}", request.message()))) }
                }))
        });
    for _ in 0..2 {
        let (mut peer, _ended) = open(&mut stack).await;
        peer.say("a").await;
        peer.say("b").await;
        assert_eq!(peer.receive().await.as_deref(), Some("1 a"));
        assert_eq!(peer.receive().await.as_deref(), Some("2 b"));
    }
}

#[tokio::test]
async fn handler_that_never_replies_returns_none_or_an_empty_vec() {
    let silent = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(|_: Request<String>| async move { Ok::<_, BoxError>(None) });
    let empty = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(|_: Request<String>| async move { Ok::<_, BoxError>(vec![]) });
    assert_no_reply(silent).await;
    assert_no_reply(empty).await;
}

async fn assert_no_reply(mut stack: impl Pipeline<DuplexStream>) {
    let (mut peer, ended) = open(&mut stack).await;
    peer.say("hello").await;
    peer.finish().await;
    assert_eq!(peer.receive().await, None);
    let stats = ended.await.unwrap().unwrap().stats;
    assert_eq!((stats.messages_in, stats.messages_out), (1, 0));
}

#[tokio::test]
async fn boxed_stack_serves_every_transport() {
    let boxed: BoxPipeline = BoxPipeline::new(app());
    assert_eq!(reply(boxed.clone(), "hello").await, "hello");
    // The same over a boxed transport.
    let boxed_transport = app().map_request(|connection: Connection<DuplexStream>| {
        connection.map_transport(BoxTransport::new)
    });
    assert_eq!(reply(boxed_transport, "hello").await, "hello");
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (memory, _) = net::memory(1024);
    let _serve = serve_all((tcp, memory), boxed);
}

#[tokio::test]
async fn many_tower_layers_compile_on_both_sides() {
    let stack = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(3)
        .rate_limit(5, Duration::from_secs(1))
        .timeout(Duration::from_secs(9))
        .option_layer(Some(TimeoutLayer::new(Duration::from_secs(8))))
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new().with_in_flight(8).unordered())
        .layer(HandleErrorLayer::new(|error| Some(format!("ERR {error}"))))
        .load_shed()
        .concurrency_limit(3)
        .timeout(Duration::from_secs(1))
        .map_response(|line: String| Some(line))
        .service_fn(
            |request: Request<String>| async move { Ok::<_, BoxError>(request.into_message()) },
        );
    assert_eq!(reply(stack, "hello").await, "hello");
}

#[tokio::test]
async fn client_stack_has_the_same_shape() {
    let (listener, connector) = net::memory(1024);
    tokio::spawn(async move { serve(listener, app()).await });
    let (sender, mut replies) = tokio::sync::mpsc::channel(1);
    let (session, task) = connect(connector, (), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(LinesCodec::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<String>| {
                let sender = sender.clone();
                async move {
                    sender.send(request.into_message()).await?;
                    Ok::<_, BoxError>(None)
                }
            })
    })
    .await
    .unwrap();
    session.send("hello".to_owned()).await.unwrap();
    assert_eq!(replies.recv().await.as_deref(), Some("hello"));
    session.close();
    assert_eq!(task.await.unwrap().reason, getty::CloseReason::Local);
}
