//! One tokio runtime and one listener per core, all on the same port. It works on Linux.
//!
//! ```text
//! cargo run --release --example per_core                       # 127.0.0.1:7050, all cores
//! cargo run --release --example per_core -- 127.0.0.1:7050 4   # an address and a thread count
//! nc 127.0.0.1 7050                                            # in several terminals
//! ```
//!
//! Each line comes back with the name of the thread that serves the connection. A connection
//! never moves to another thread. Ctrl-c shuts all threads down and prints how their sessions
//! ended.
//!
//! docs/design.md compares this with tokio's multi-threaded runtime
//! (design.md: When is one runtime per core better?).

mod report;

use std::{env, net::SocketAddr, num::NonZero, thread};

use getty::{CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle, net::TcpListener};
use tokio::runtime;

use self::report::Report;

fn main() -> Result<(), Report> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:7050".to_owned());
    let mut address: SocketAddr = address
        .parse()
        .map_err(|_| format!("{address} is no address, such as 127.0.0.1:7050"))?;
    let threads = match arguments.next() {
        Some(threads) => threads.parse::<NonZero<usize>>()?,
        None => thread::available_parallelism()?,
    };

    let app = ServiceBuilder::new()
        // Each thread has a clone of the stack. The clones share this limit.
        .concurrency_limit(10_000)
        .layer(CodecLayer::new(Lines::new().with_max_length(8 * 1024)))
        .layer(SessionLayer::new())
        .service(handle(|line: String| {
            let thread = thread::current();
            format!("{}: {line}", thread.name().unwrap_or_default())
        }));

    // Bind all listeners before serving, so that a failure to bind ends the program here.
    let mut bound = Vec::new();
    for _ in 0..threads.get() {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = TcpListener::builder().with_reuse_port(true);
        let listener = runtime.block_on(listener.bind(address))?;
        // With port 0 the system chooses a port for the first listener. The others must use it too.
        address = listener.local_addr()?;
        bound.push((runtime, listener));
    }

    let mut serving = Vec::new();
    for (core, (runtime, listener)) in bound.into_iter().enumerate() {
        let app = app.clone();
        let thread = thread::Builder::new().name(format!("core-{core}"));
        serving.push(thread.spawn(move || {
            runtime.block_on(async {
                getty::serve(listener, app)
                    // A signal reaches the process. Every thread waits for it here.
                    .with_graceful_shutdown(getty::shutdown_signal())
                    .await
            })
        })?);
    }
    println!("listening on {address}, with {threads} threads");

    let (mut finished, mut aborted) = (0, 0);
    for thread in serving {
        let drained = thread.join().map_err(|_| "a thread panicked")??;
        finished += drained.finished;
        aborted += drained.aborted;
    }
    println!("{finished} sessions finished, {aborted} were cut off");
    Ok(())
}
