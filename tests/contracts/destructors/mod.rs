//! A panic in a destructor must be caught and logged, on every path and beside any other panic.
//!
//! If one fails, the process aborts. Then no other test of the binary can report a result.

mod kit;
mod serving;

use std::{
    future::{Ready, ready},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use getty::{
    BoxError, CloseReason, CodecLayer, Connection, ConnectionHandle, Request, Service,
    ServiceBuilder, Session, SessionLayer,
    codec::Raw,
    hooks::{Contained, HandleExt},
    layers::OnOpenLayer,
    service_fn,
};
use getty_test::{Peer, Stream, stream};
use tokio::time::Instant;

use self::kit::{Bomb, Bombs, Gates, Outer, Parcel, Parcels, Worker};
use crate::support::{idle, soon};

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Reset,
    DrainDeadline,
    Panic,
    Aborted,
    /// The future is dropped while the panic of an outer future unwinds.
    Unwound,
}

impl End {
    const ALL: [Self; 5] = [
        Self::Reset,
        Self::DrainDeadline,
        Self::Panic,
        Self::Aborted,
        Self::Unwound,
    ];

    const fn reason(self) -> CloseReason {
        match self {
            Self::Reset => CloseReason::Io,
            Self::DrainDeadline => CloseReason::Local,
            Self::Panic | Self::Unwound => CloseReason::Panicked,
            Self::Aborted => CloseReason::Dropped,
        }
    }
}

/// A connection whose layers have left bombs everywhere.
fn connection(bombs: &Arc<Bombs>, ran: &Arc<AtomicUsize>) -> (Connection<Transport>, Peer) {
    let (stream, peer) = stream();
    let connection = Connection::new(bombs.arm(stream));
    let handle = connection.handle();
    assert!(handle.insert(bombs.arm(1_u8)).is_none());
    assert!(handle.insert(bombs.arm(1_u16)).is_none());
    for key in 0..2_u8 {
        let value = bombs.arm(key);
        assert!(handle.insert_at(bombs.arm(key), value).is_none());
        // The second pair must replace the first.
        for _ in 0..2 {
            let (ran, bomb) = (Arc::clone(ran), bombs.bomb());
            handle.add_close_callback(bombs.arm(key), bombs.arm(key), move |_| {
                let _bomb = &bomb;
                ran.fetch_add(1, SeqCst);
            });
        }
        let bomb = bombs.bomb();
        handle.schedule(Instant::now() + Duration::from_secs(3600), move |_, _| {
            let _bomb = &bomb;
            None
        });
        handle.drop_on_input_end(bombs.arm(key));
    }
    (connection, peer)
}

type Transport = kit::Armed<Stream>;

/// One session that ends.
struct Case {
    bombs: Arc<Bombs>,
    gates: Arc<Gates>,
    peer: Peer,
    session: Session<Parcel>,
}

/// Runs a session for each way to end, and lets `prepare` fill it with more bombs.
async fn every_end<F>(layer: SessionLayer, least: usize, prepare: impl Fn(Case) -> F)
where
    F: Future<Output = ()>,
{
    for end in End::ALL {
        let (bombs, gates) = (Bombs::new(), Arc::<Gates>::default());
        let (ran, outside) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (connection, peer) = connection(&bombs, &ran);
        let handle = connection.handle().clone();
        let opened: Arc<Mutex<Option<Session<Parcel>>>> = Arc::default();
        let (slot, hook) = (Arc::clone(&opened), bombs.bomb());
        let worker = Worker {
            gates: Arc::clone(&gates),
            bomb: bombs.bomb(),
        };
        let mut stack = Contained::new(
            ServiceBuilder::new()
                .layer(CodecLayer::new(Parcels(bombs.bomb())))
                .layer(OnOpenLayer::new(move |session| {
                    let _hook = &hook;
                    *slot.lock().unwrap() = Some(session);
                    async { Ok::<_, BoxError>(()) }
                }))
                .layer(layer.clone())
                .service(worker),
        );
        let task = tokio::spawn(Outer {
            inner: Box::pin(Contained::new(stack.call(connection))),
            outside: Arc::clone(&outside),
        });
        drop(stack);
        idle().await;
        let session = opened.lock().unwrap().take().expect("the session is open");
        let case = Case {
            bombs: Arc::clone(&bombs),
            gates,
            peer: peer.clone(),
            session,
        };
        prepare(case).await;
        finish(end, &handle, &peer, &outside, &task);
        let closed = soon(handle.closed()).await;
        assert_eq!(closed.reason, end.reason(), "{end:?}");
        assert_eq!(ran.load(SeqCst), 2, "{end:?}: callbacks run once");
        let joined = soon(task).await;
        assert_eq!(joined.is_ok(), !matches!(end, End::Aborted | End::Unwound));
        assert!(peer.is_gone());
        drop(handle);
        bombs.assert_dropped(least);
    }
}

fn finish<T>(
    end: End,
    handle: &ConnectionHandle,
    peer: &Peer,
    outside: &AtomicBool,
    task: &tokio::task::JoinHandle<T>,
) {
    match end {
        End::Reset => {
            peer.reset();
            handle.ping(); // it may be neither reading nor writing
        }
        End::DrainDeadline => handle.close(),
        End::Panic => handle.schedule(Instant::now(), |_, _| panic!("a bad check")),
        End::Aborted => task.abort(),
        End::Unwound => {
            outside.store(true, SeqCst);
            handle.ping();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn idle_session_drops_each_value() {
    every_end(SessionLayer::new(), 26, |_| async {}).await;
}

#[tokio::test(start_paused = true)]
async fn handlers_in_flight_are_dropped_one_at_a_time() {
    for layer in [
        SessionLayer::new(),
        SessionLayer::new().with_in_flight(3),
        SessionLayer::new().with_in_flight(3).unordered(),
    ] {
        every_end(layer, 27, |case| async move {
            case.peer.send("hang\nhang\nhang\narmed\n");
            idle().await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn message_that_waits_for_readiness_is_dropped_separately_from_the_stack() {
    for layer in [SessionLayer::new(), SessionLayer::new().with_in_flight(3)] {
        every_end(layer, 27, |case| async move {
            case.gates.unready.store(true, SeqCst);
            case.peer.send("armed\narmed\n");
            idle().await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn replies_that_wait_for_an_earlier_one_are_dropped_one_at_a_time() {
    every_end(
        SessionLayer::new().with_in_flight(3),
        31,
        |case| async move {
            case.peer.send("hang\nreply\nreply\n");
            idle().await;
            case.gates.reply.notify_waiters();
            idle().await;
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_wait_for_the_peer_are_dropped_one_at_a_time() {
    for ordered in [true, false] {
        let layer = SessionLayer::new().with_in_flight(3).with_watermarks(0, 0);
        let layer = if ordered { layer } else { layer.unordered() };
        every_end(layer, 33, |case| async move {
            case.peer.send("reply\nreply\n");
            idle().await;
            case.peer.stall();
            // The first message fills the write buffer.
            case.session.feed(Parcel::plain("first")).await.unwrap();
            for _ in 0..3 {
                let queued = Parcel::armed(&case.bombs);
                case.session.feed(queued).await.unwrap();
            }
            idle().await;
            case.gates.reply.notify_waiters();
            idle().await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn make_service_is_dropped_separately_from_the_rest() {
    for end in [End::DrainDeadline, End::Panic, End::Aborted, End::Unwound] {
        let (bombs, ran) = (Bombs::new(), Arc::default());
        let outside = Arc::new(AtomicBool::new(false));
        let (connection, peer) = connection(&bombs, &ran);
        let handle = connection.handle().clone();
        let make = bombs.bomb();
        let making = service_fn(move |session: Session<Parcel>| {
            let bomb = make.clone();
            async move {
                let _bomb = &bomb;
                session.feed(Parcel::plain("greeting")).await?;
                std::future::pending::<Result<Worker, BoxError>>().await
            }
        });
        let mut stack = Contained::new(
            ServiceBuilder::new()
                .layer(CodecLayer::new(Parcels(bombs.bomb())))
                .layer(SessionLayer::per_session())
                .service(making),
        );
        let task = tokio::spawn(Outer {
            inner: Box::pin(Contained::new(stack.call(connection))),
            outside: Arc::clone(&outside),
        });
        drop(stack);
        idle().await;
        finish(end, &handle, &peer, &outside, &task);
        let closed = soon(handle.closed()).await;
        let reason = match end {
            End::Aborted => CloseReason::Refused, // it was never open
            other => other.reason(),
        };
        assert_eq!(closed.reason, reason, "{end:?}");
        assert_eq!(ran.load(SeqCst), 2, "{end:?}: callbacks run once");
        let joined = soon(task).await;
        assert_eq!(joined.is_ok(), !matches!(end, End::Aborted | End::Unwound));
        drop(handle);
        bombs.assert_dropped(25);
    }
}

#[test]
fn connection_is_dropped_while_a_panic_unwinds() {
    for unwinds in [false, true] {
        let (bombs, ran) = (Bombs::new(), Arc::default());
        let (connection, peer) = connection(&bombs, &ran);
        let handle = connection.handle().clone();
        let dropped = catch_unwind(AssertUnwindSafe(move || {
            let _connection = connection;
            assert!(!unwinds, "a bad layer");
        }));
        assert_eq!(dropped.is_err(), unwinds);
        assert_eq!(
            handle.reason(),
            Some(if unwinds {
                CloseReason::Panicked
            } else {
                CloseReason::Refused
            })
        );
        assert_eq!(ran.load(SeqCst), 2);
        assert!(peer.is_gone());
        drop(handle);
        bombs.assert_dropped(23);
    }
}

/// A handler with a limited number of clones.
struct Fickle {
    bomb: Bomb,
    clones: Arc<AtomicUsize>,
}

impl Clone for Fickle {
    fn clone(&self) -> Self {
        let before = self.clones.fetch_sub(1, SeqCst);
        assert!(before > 0, "a bad clone");
        Self {
            bomb: self.bomb.clone(),
            clones: Arc::clone(&self.clones),
        }
    }
}

impl Service<Request<Bytes>> for Fickle {
    type Response = Option<Bytes>;
    type Error = BoxError;
    type Future = Ready<Result<Option<Bytes>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        ready(Ok(None))
    }
}

#[test]
fn panic_of_a_clone_drops_the_connection_and_an_earlier_clone() {
    for clones in [0, 1] {
        let (bombs, ran) = (Bombs::new(), Arc::default());
        let (connection, peer) = connection(&bombs, &ran);
        let handle = connection.handle().clone();
        let mut stack = Contained::new(
            ServiceBuilder::new()
                .layer(CodecLayer::new(Raw::new()))
                .layer(SessionLayer::new())
                .service(Fickle {
                    bomb: bombs.bomb(),
                    clones: Arc::new(AtomicUsize::new(clones)),
                }),
        );
        let called = catch_unwind(AssertUnwindSafe(|| drop(stack.call(connection))));
        assert!(called.is_err());
        assert_eq!(handle.reason(), Some(CloseReason::Panicked));
        assert_eq!(ran.load(SeqCst), 2);
        assert!(peer.is_gone());
        drop((handle, stack));
        bombs.assert_dropped(24);
    }
}
