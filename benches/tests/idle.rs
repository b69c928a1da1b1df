//! What an idle session holds, by part: printed with `--nocapture`, and held to a bound.
//!
//! What is counted is what the program has asked the allocator for, of which the allocator makes a little more. It is the
//! whole process, so there is one test in this binary.

use std::{
    alloc::System,
    future::ready,
    io::{Read, Write},
    net::{self, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use bytes::Bytes;
use futures_util::FutureExt;
use getty::{
    BoxError, Closed, CodecLayer, Connection, ConnectionHandle, Layer, Pipeline, Request, Service,
    Session, SessionLayer,
    codec::Frame,
    layers::{
        Endpoints, Framed, TransportKind,
        driver::{Driver, Lease},
    },
    serve, service_fn,
};
use getty_benches::{
    alone::{self, Stack},
    frames::{Form, Frames},
    scripted::Scripted,
    server::{codec, getty as stacks, ws},
    websocket,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::yield_now,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How many sessions share what the process has once. A power of two, as is the room that lists of them have.
const SESSIONS: usize = 256;
const PAYLOAD: usize = 64;

/// What a session may hold: the bare stack, the full one, and the bare one over WebSocket. The runtime aligns tasks to 128
/// bytes: a future that grows beyond what is spare in its task is seen here.
const BOUNDS: [f64; 3] = [1_450.0, 2_600.0, 3_000.0];
/// What one layer may add.
const LAYER: f64 = 600.0;

#[test]
fn an_idle_session_holds_little() {
    // the thread's buffers, which sessions lend and give back
    alone(alone::NONE.1);
    by_part();
    let totals = [
        total(stacks::bare(), [Form::Length, Form::Length]),
        total(stacks::full(), [Form::Length, Form::Length]),
        total(ws::getty(), [Form::Masked, Form::Unmasked]),
    ];
    println!("\n| stack, as `serve` runs it | bytes | allocations |\n|---|--:|--:|");
    for ((name, held), bound) in ["bare", "full", "WebSocket"]
        .into_iter()
        .zip(totals)
        .zip(BOUNDS)
    {
        held.print(name);
        assert!(held.bytes <= bound, "{name}: {} bytes", held.bytes);
    }
    by_layer();
    after_large_frames();
}

/// What is held of the allocator, for each of so many sessions.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    bytes: f64,
    allocations: f64,
}

impl Held {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    fn since(region: &Region<'_, System>) -> Self {
        let change = region.change();
        let each = |more: usize, less: usize| (more as f64 - less as f64) / SESSIONS as f64;
        Self {
            bytes: each(change.bytes_allocated, change.bytes_deallocated),
            allocations: each(change.allocations, change.deallocations),
        }
    }

    fn print(self, part: &str) {
        println!("| {part} | {:.0} | {:.1} |", self.bytes, self.allocations);
    }

    fn beyond(self, other: Self) -> Self {
        Self {
            bytes: self.bytes - other.bytes,
            allocations: self.allocations - other.allocations,
        }
    }
}

/// What `work` leaves behind on the heap.
fn held<T>(work: impl FnOnce() -> T) -> (T, Held) {
    let region = Region::new(ALLOCATOR);
    let made = work();
    (made, Held::since(&region))
}

/// What `make` makes of each of `from`, and what that takes; the list itself does not count.
fn each<T, U>(from: Vec<T>, make: impl FnMut(T) -> U) -> (Vec<U>, Held) {
    let mut made = Vec::with_capacity(from.len());
    let (from, held) = held(|| {
        let mut from = from.into_iter();
        made.extend(from.by_ref().map(make));
        from
    });
    drop(from);
    (made, held)
}

async fn echo(request: Request<Frame>) -> Result<Frame, BoxError> {
    Ok(request.into_message())
}

/// The size of the future that `handler` makes.
const fn size_of_answer<F>(_handler: &impl Fn(Request<Frame>) -> F) -> usize {
    size_of::<F>()
}

/// The bare stack over TCP, one step after another.
fn by_part() {
    println!("\n| part of a bare session over TCP | bytes | allocations |\n|---|--:|--:|");
    let runtime = runtime();
    let _entered = runtime.enter();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let mut clients = Vec::with_capacity(SESSIONS);
    let (streams, socket) = each(vec![(); SESSIONS], |()| {
        clients.push(net::TcpStream::connect(address).unwrap());
        runtime.block_on(listener.accept()).unwrap().0
    });
    let (connections, handle) = each(streams, |stream| {
        let [local, peer] = [stream.local_addr(), stream.peer_addr()].map(Result::unwrap);
        let endpoints = Endpoints::new(TransportKind::Tcp, local.into(), peer.into());
        Connection::with_endpoints(stream, endpoints)
    });
    let handles: Vec<_> = connections
        .iter()
        .map(|connection| connection.handle().clone())
        .collect();
    type Wire = Framed<TcpStream, getty::codec::Frames, Frame>;
    let keep = |connection: Connection<Wire>| ready(Ok::<_, BoxError>(connection));
    let mut codec = CodecLayer::new(codec::frames()).layer(service_fn(keep));
    let (framed, session) = each(connections, |connection| {
        let framed = codec.call(connection).now_or_never();
        framed.expect("it is ready").expect("it does not fail")
    });
    let mut sessions = SessionLayer::new().layer(service_fn(echo));
    let (futures, of_loop) = each(framed, |connection| sessions.call(connection));
    let future = size_of_val(&futures[0]);
    let handler = size_of_answer(&echo);
    let (tasks, task) = each(futures, |future| tokio::spawn(future));
    let ((), opened) = held(|| runtime.block_on(until(&handles, ConnectionHandle::is_open)));
    let frame = Frames::new(PAYLOAD).concatenated(1);
    for client in &mut clients {
        client.write_all(&frame).unwrap();
    }
    let ((), echoed) = held(|| {
        runtime.block_on(until(&handles, |handle| handle.stats().messages_out == 1));
    });

    let inline = |part: &str, bytes: usize| println!("| - {part} | {bytes} | |");
    socket.print("the socket's registration with the runtime");
    handle.print("the connection's handle, and its addresses");
    session.print("the session: its outbox, and the driver's half of it");
    of_loop.print("the service");
    task.print("the task");
    let parts = [
        ("the transport, `TcpStream`", size_of::<TcpStream>()),
        ("the codec, `Frames`", size_of::<getty::codec::Frames>()),
        ("the driver's half", size_of::<Driver<Frame>>()),
        ("the lease", size_of::<Lease>()),
        ("the handler's future", handler),
    ];
    let known: usize = parts.iter().map(|(_, bytes)| bytes).sum();
    for (part, bytes) in parts {
        inline(part, bytes);
    }
    inline(
        "the loop's own: reader, writer, queues, timer",
        future - known,
    );
    let of_runtime = Held {
        bytes: task.bytes - future as f64,
        ..Held::default()
    };
    of_runtime.print("- the runtime's own, and what its alignment leaves");
    opened.print("what it takes when it opens");
    echoed.print("what it keeps after a message");
    println!(
        "| a session's handle, `Session`, for whoever keeps one | {} | |",
        size_of::<Session<Frame>>()
    );

    drop(clients);
    for task in tasks {
        let closed: Closed = runtime.block_on(task).unwrap().unwrap();
        assert_eq!(closed.stats.messages_out, 1);
    }
}

/// What a session of `stack` holds after one message, over TCP and with all that `serve` keeps.
fn total(stack: impl Pipeline<TcpStream>, forms: [Form; 2]) -> Held {
    runtime().block_on(async {
        let listener = getty::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { serve(listener, stack).await });
        // what the process and the stack have once
        let _first = connect(address, forms, 1).await;

        let region = Region::new(ALLOCATOR);
        let clients = connect(address, forms, SESSIONS).await;
        settle().await;
        let held = Held::since(&region);
        drop(clients);
        held
    })
}

/// So many clients, each with one answer, from a thread of their own. They have no heap but the list.
async fn connect(server: SocketAddr, [out, back]: [Form; 2], n: usize) -> Vec<net::TcpStream> {
    let frame = |form| Frames::in_form(form, PAYLOAD).concatenated(1);
    let (question, answer) = (frame(out), frame(back));
    let (done, connected) = oneshot::channel();
    let thread = thread::spawn(move || {
        let mut received = vec![0; answer.len()];
        let clients: Vec<_> = (0..n)
            .map(|_| {
                let mut client = net::TcpStream::connect(server).unwrap();
                if out == Form::Masked {
                    websocket::open(&client).unwrap();
                }
                client.write_all(&question).unwrap();
                client.read_exact(&mut received).unwrap();
                assert_eq!(received, answer);
                client
            })
            .collect();
        done.send(clients).unwrap();
    });
    let clients = connected.await.unwrap();
    thread.join().unwrap();
    clients
}

/// What each layer alone adds to a session that has had one message, with the growth of its future.
fn by_layer() {
    println!("\n| layer | bytes of future | bytes in all | allocations |\n|---|--:|--:|--:|");
    let (bare_future, bare) = alone(alone::NONE.1);
    for (name, stack) in alone::all() {
        let (future, all) = alone(stack);
        let (future, added) = (future as isize - bare_future as isize, all.beyond(bare));
        let Held { bytes, allocations } = added;
        println!("| {name} | {future} | {bytes:.0} | {allocations:.1} |");
        assert!(bytes <= LAYER, "{name}: {bytes} bytes");
    }
}

/// A session that has moved much holds as much, once it is idle, as one that never did; and of a frame that has begun,
/// little more than that.
fn after_large_frames() {
    const LARGE: usize = 64 * 1024;
    const BEGUN: usize = 1_000;
    let frames = Frames::new(LARGE);
    let many = frames.concatenated(20);
    let begun = [&many[..], &many[..BEGUN]].concat();
    let (_, small) = alone(alone::NONE.1);
    let (_, large) = alone_after(alone::NONE.1, &many, many.len());
    let (_, begun) = alone_after(alone::NONE.1, &begun, many.len());
    println!("\n| after 20 frames of 64 KiB | bytes | allocations |\n|---|--:|--:|");
    large.print("idle");
    begun.print("with 1,000 bytes of another");
    assert!(large.bytes <= small.bytes, "{} bytes", large.bytes);
    let more = begun.beyond(small).bytes;
    assert!(more <= 2.0 * BEGUN as f64, "{more} bytes more");
}

/// The future of a session, and all that it holds after a small message, over a transport in memory.
fn alone(stack: fn() -> Stack) -> (usize, Held) {
    let frame = Frames::new(PAYLOAD).concatenated(1);
    alone_after(stack, &frame, frame.len())
}

/// The same after `sent`, to which so many bytes are the `answer`.
fn alone_after(stack: fn() -> Stack, sent: &[u8], answer: usize) -> (usize, Held) {
    runtime().block_on(async {
        let mut stack = stack();
        let batch = Bytes::copy_from_slice(sent);
        let written = Arc::new(AtomicU64::new(0));
        let transport = || Scripted::new(batch.clone(), 1, Arc::clone(&written)).staying();
        // what the process and the stack have once
        tokio::spawn(stack.open(transport()));
        settle().await;

        let transports = (0..SESSIONS).map(|_| transport()).collect();
        let region = Region::new(ALLOCATOR);
        let (lives, _) = each(transports, |transport| stack.open(transport));
        let future = size_of_val(&*lives[0]);
        let (tasks, _) = each(lives, tokio::spawn);
        settle().await;
        let held = Held::since(&region);
        assert_eq!(written.load(Relaxed), (answer * (SESSIONS + 1)) as u64);
        drop(tasks);
        (future, held)
    })
}

/// Until all of `handles` are so.
async fn until(handles: &[ConnectionHandle], so: impl Fn(&ConnectionHandle) -> bool) {
    while !handles.iter().all(&so) {
        yield_now().await;
    }
    settle().await;
}

/// Until nothing is left to do but to wait.
async fn settle() {
    for _ in 0..1_000 {
        yield_now().await;
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}
