//! The task that polls sessions: the reader's or the session's.

use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, net::UdpListener};
use tokio::{net::UdpSocket, task};

use super::{V4, Whole, ask, peer_of, receive, serve, soon};

/// Answers with the id of the task that it runs on.
async fn task_of(_: Request<Bytes>) -> Result<Bytes, BoxError> {
    Ok(Bytes::from(task::id().to_string()))
}

async fn peers_of_a_server(listener: UdpListener) -> [UdpSocket; 2] {
    let address = listener.local_addr().unwrap();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(SessionLayer::new())
        .service_fn(task_of);
    drop(serve(listener, stack));
    [peer_of(address).await, peer_of(address).await]
}

#[tokio::test]
async fn quick_sessions_are_polled_by_the_reader() {
    let [one, other] = peers_of_a_server(UdpListener::bind(V4).await.unwrap()).await;
    soon(async {
        // On a busy machine some sessions may be polled by their tasks.
        while ask(&one, "where?").await != ask(&other, "where?").await {}
    })
    .await;
}

#[tokio::test]
async fn sessions_are_polled_by_their_tasks_if_inline_polling_is_off() {
    let listener = UdpListener::builder().with_inline_polling(false);
    let [one, other] = peers_of_a_server(listener.bind(V4).await.unwrap()).await;
    let (at_one, at_other) = (ask(&one, "where?").await, ask(&other, "where?").await);
    assert_ne!(at_one, at_other);
    for _ in 0..20 {
        assert_eq!(ask(&one, "where?").await, at_one);
        assert_eq!(ask(&other, "where?").await, at_other);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_on_their_tasks_do_not_wait_for_one_that_blocks() {
    let listener = UdpListener::builder()
        .with_inline_polling(false)
        .bind(V4)
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<Bytes>| {
            let released = Arc::clone(&released);
            async move {
                let message = request.into_message();
                if message == "block" {
                    task::block_in_place(|| released.lock().unwrap().recv())?;
                }
                Ok::<_, BoxError>(message)
            }
        });
    let _server = serve(listener, stack);
    let (one, other) = (peer_of(address).await, peer_of(address).await);
    assert_eq!(ask(&one, "hello").await, "hello");
    one.send(b"block").await.unwrap();
    for _ in 0..20 {
        assert_eq!(ask(&other, "hello").await, "hello");
    }
    release.send(()).unwrap();
    assert_eq!(receive(&one).await, "block");
}
