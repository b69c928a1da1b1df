//! Ten thousand peers that read nothing, beside a few that do.

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, join_all};
use getty::{
    BoxError, Closed, CodecLayer, Connection, Pipeline, Request, Service, ServiceBuilder,
    SessionLayer, codec::Lines, net::memory, serve,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::app::soon;

const SLOW: usize = 10_000;
const OTHERS: usize = 20;
const REQUESTS: usize = 50;

/// Capacity of a pipe, in bytes.
const PIPE: usize = 64;
/// Size of the reply that a slow peer does not read.
const REPLY: usize = 2000;

/// Counts the polls of all connections of a stack.
struct Counted<S>(S, Arc<AtomicUsize>);

impl<S> Service<Connection<DuplexStream>> for Counted<S>
where
    S: Service<Connection<DuplexStream>, Response = Closed, Future: Send + 'static>,
{
    type Response = Closed;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Closed, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<DuplexStream>) -> Self::Future {
        let (polls, mut future) = (Arc::clone(&self.1), Box::pin(self.0.call(connection)));
        Box::pin(poll_fn(move |cx| {
            polls.fetch_add(1, SeqCst);
            future.as_mut().poll(cx)
        }))
    }
}

/// Returns a stack that echoes lines and counts the polls of all its sessions.
fn stack(polls: &Arc<AtomicUsize>) -> impl Pipeline<DuplexStream> + use<> {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(
            SessionLayer::new()
                .with_watermarks(512, 1024)
                .with_reply_limit(1024)
                .with_write_timeout(None),
        )
        .service_fn(async |request: Request<String>| {
            Ok::<_, BoxError>(match request.message().as_str() {
                "much" => "x".repeat(REPLY),
                _ => request.into_message(),
            })
        });
    Counted(stack, Arc::clone(polls))
}

/// Serves requests beside `slow` peers. Returns the polls of all sessions from a request to its
/// response, the 99th percentile, and the polls of the slow sessions meanwhile.
async fn measure(slow: usize) -> (usize, usize) {
    let (slow_polls, polls) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (slow_listener, slow_connector) = memory(PIPE);
    let (listener, connector) = memory(PIPE);
    let serve = serve(slow_listener, stack(&slow_polls)).and(serve(listener, stack(&polls)));
    let served = tokio::spawn(async move { serve.await });
    let mut idle = Vec::new();
    for _ in 0..slow {
        let mut peer = slow_connector.connect().await.unwrap().into_parts().0;
        peer.write_all(b"much\n").await.unwrap();
        // The first byte of the reply shows that the rest waits.
        peer.read_u8().await.unwrap();
        idle.push(peer);
    }
    let mut others = Vec::new();
    for _ in 0..OTHERS {
        others.push(connector.connect().await.unwrap().into_parts().0);
    }
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    let before = slow_polls.load(SeqCst);
    let all = || polls.load(SeqCst) + slow_polls.load(SeqCst);
    let exchanges = others.into_iter().map(|mut peer| async move {
        let mut costs = Vec::new();
        for _ in 0..REQUESTS {
            let start = all();
            peer.write_all(b"hello\n").await.unwrap();
            let mut reply = [0; 6];
            soon(peer.read_exact(&mut reply)).await.unwrap();
            assert_eq!(&reply, b"hello\n");
            costs.push(all() - start);
            tokio::task::yield_now().await;
        }
        costs
    });
    let mut costs: Vec<_> = join_all(exchanges).await.into_iter().flatten().collect();
    costs.sort_unstable();
    served.abort();
    (
        costs[costs.len() * 99 / 100],
        slow_polls.load(SeqCst) - before,
    )
}

/// Polls are counted instead of time, which other processes would disturb. A session that waits
/// for its peer costs none.
#[tokio::test(start_paused = true)]
async fn requests_cost_the_same_beside_ten_thousand_peers_that_read_nothing() {
    let (alone, _) = measure(0).await;
    let (beside, of_slow) = measure(SLOW).await;
    assert_eq!(of_slow, 0, "slow sessions are not polled");
    assert!(
        alone > 0 && beside <= 2 * alone,
        "{beside} instead of {alone}"
    );
}
