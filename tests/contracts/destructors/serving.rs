//! Servers and clients whose values panic when they are dropped.

use std::{
    future::{IntoFuture, pending},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use getty::{
    BoxError, CodecLayer, Connection, Pipeline, ServiceBuilder, SessionLayer,
    layers::{CloseCallbackLayer, HeartbeatLayer, IdleTimeoutLayer, IntervalLayer, OnOpenLayer},
    serve, service_fn,
};
use getty_test::{Peer, listener, stream};
use tokio::time::timeout;

use super::{
    Transport,
    kit::{Bombs, Parcel, Parcels, Worker},
};
use crate::support::{idle, soon};

/// A stack with a bomb in each closure.
fn app<T>(bombs: &Arc<Bombs>) -> impl Pipeline<T> + Clone + use<T>
where
    T: getty::Transport + Send + 'static,
{
    let second = Duration::from_secs(1);
    let (hook, callback, interval, beat, idleness) = (
        bombs.bomb(),
        bombs.bomb(),
        bombs.bomb(),
        bombs.bomb(),
        bombs.bomb(),
    );
    ServiceBuilder::new()
        .layer(CloseCallbackLayer::new(
            bombs.arm(1_u8),
            bombs.arm(2_u8),
            move |_| {
                let _bomb = &callback;
            },
        ))
        .layer(CodecLayer::new(Parcels(bombs.bomb())))
        .layer(OnOpenLayer::new(move |_| {
            let bomb = hook.clone();
            async move {
                let _bomb = bomb;
                pending::<Result<(), BoxError>>().await
            }
        }))
        .layer(IntervalLayer::new(second, move |_| {
            let _bomb = &interval;
            Ok::<_, BoxError>(())
        }))
        .layer(HeartbeatLayer::new(second, move |_| {
            let _bomb = &beat;
            Parcel::plain("beat")
        }))
        .layer(IdleTimeoutLayer::new(second).with_hook(move |_, _| {
            let _bomb = &idleness;
        }))
        .layer(SessionLayer::new())
        .service(Worker {
            gates: Arc::default(),
            bomb: bombs.bomb(),
        })
}

/// A server of two listeners and a session that is being opened. Each of its values has a bomb.
fn server(bombs: &Arc<Bombs>) -> (getty::Serve, Peer) {
    let (first, dialer) = listener();
    let (second, _) = listener();
    let stop = bombs.arm(Box::pin(tokio::time::sleep(Duration::from_secs(10))));
    let served = serve(bombs.arm(first), app(bombs))
        .and(serve(bombs.arm(second), app(bombs)))
        .with_graceful_shutdown(stop);
    (served, dialer.dial())
}

#[tokio::test(start_paused = true)]
async fn server_drops_each_value_before_it_runs_while_it_runs_and_when_aborted() {
    let bombs = Bombs::new();
    drop(server(&bombs));
    bombs.assert_dropped(17);

    let bombs = Bombs::new();
    let (served, peer) = server(&bombs);
    let running = served.into_future();
    assert!(timeout(Duration::from_millis(1), running).await.is_err());
    idle().await;
    assert!(peer.is_gone());
    bombs.assert_dropped(25);

    let bombs = Bombs::new();
    let (served, peer) = server(&bombs);
    let task = tokio::spawn(served.into_future());
    idle().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    idle().await;
    assert!(peer.is_gone());
    bombs.assert_dropped(25);
}

#[tokio::test(start_paused = true)]
async fn server_drains_even_if_its_values_panic_when_they_are_dropped() {
    let bombs = Bombs::new();
    let (served, peer) = server(&bombs);
    let drained = soon(served.into_future()).await.unwrap();
    assert_eq!((drained.finished, drained.aborted), (0, 1));
    assert!(peer.is_gone());
    bombs.assert_dropped(25);
}

#[tokio::test(start_paused = true)]
async fn server_is_dropped_while_a_panic_unwinds() {
    let bombs = Bombs::new();
    let (served, _peer) = server(&bombs);
    let mut running = served.into_future();
    assert!(
        timeout(Duration::from_millis(1), &mut running)
            .await
            .is_err()
    );
    let outer = catch_unwind(AssertUnwindSafe(move || {
        let _running = running;
        panic!("a bad task");
    }));
    assert!(outer.is_err());
    idle().await;
    bombs.assert_dropped(25);
}

#[tokio::test(start_paused = true)]
async fn dropped_connect_drops_each_value() {
    for connects in [false, true] {
        let bombs = Bombs::new();
        let (transport, peer) = stream();
        // A closure that is called drops what it holds by itself.
        let (connector, build) = (bombs.bomb(), (!connects).then(|| bombs.bomb()));
        let transport = Connection::new(bombs.arm(transport));
        let connector = service_fn(move |target: super::kit::Armed<Connection<Transport>>| {
            let _connector = &connector;
            let super::kit::Armed { value, bomb } = target;
            async move {
                bomb.disarm();
                if !connects {
                    pending::<()>().await;
                }
                Ok::<_, BoxError>(value)
            }
        });
        let stack = Arc::clone(&bombs);
        let dial = getty::connect(connector, bombs.arm(transport), move |link| {
            let _build = &build;
            let (hook, worker) = (stack.bomb(), stack.bomb());
            ServiceBuilder::new()
                .layer(CodecLayer::new(Parcels(stack.bomb())))
                .layer(link)
                .layer(OnOpenLayer::new(move |_| {
                    let _hook = &hook;
                    pending::<Result<(), BoxError>>()
                }))
                .layer(SessionLayer::new())
                .service(Worker {
                    gates: Arc::default(),
                    bomb: worker,
                })
        });
        assert!(timeout(Duration::from_millis(1), dial).await.is_err());
        idle().await;
        assert!(peer.is_gone());
        bombs.assert_dropped(if connects { 9 } else { 4 });
    }
}

#[cfg(feature = "ws")]
#[tokio::test(start_paused = true)]
async fn dropped_handshake_drops_each_value() {
    use getty::{Service, hooks::Contained, ws::WsLayer};

    for unwinds in [false, true] {
        let bombs = Bombs::new();
        let (stream, peer) = stream();
        let connection = Connection::new(bombs.arm(stream));
        let mut stack = Contained::new(
            ServiceBuilder::new()
                .layer(WsLayer::new())
                .service(app(&bombs)),
        );
        let mut opening = Box::pin(stack.call(connection));
        assert!(
            timeout(Duration::from_millis(1), &mut opening)
                .await
                .is_err()
        );
        let dropped = catch_unwind(AssertUnwindSafe(move || {
            let _opening = opening;
            assert!(!unwinds, "a bad layer");
        }));
        assert_eq!(dropped.is_err(), unwinds);
        assert!(peer.is_gone());
        drop(stack);
        bombs.assert_dropped(17);
    }
}
