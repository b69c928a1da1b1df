//! A runtime and a listener for each core, all on one port: no connection ever leaves its thread. For Linux.
//!
//! ```text
//! cargo run --release --example per_core
//! ```
//!
//! Then `nc 127.0.0.1 7050`, in several terminals: each line comes back with the name of the thread that has the
//! connection. Ctrl-c ends all of them, and says how their sessions ended. An address and a number of threads may be
//! given: `-- 127.0.0.1:7050 4`.
//!
//! When to choose this, and when tokio's runtime of many threads, is told in docs/design.md, under "Serving".

use std::{env, net::SocketAddr, num::NonZero, thread};

use getty::net::TcpListener;
use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec::Lines};
use tokio::runtime;

fn main() -> Result<(), BoxError> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:7050".to_owned());
    let mut address: SocketAddr = address.parse()?;
    let threads = match arguments.next() {
        Some(threads) => threads.parse::<NonZero<usize>>()?,
        None => thread::available_parallelism()?,
    };

    let app = ServiceBuilder::new()
        // each thread has a clone of the stack, and clones share their limit: it is the process's
        .concurrency_limit(10_000)
        .layer(CodecLayer::new(Lines::new().with_max_length(8 * 1024)))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<String>| async move {
            let name = thread::current().name().unwrap_or_default().to_owned();
            Ok::<_, BoxError>(format!("{name}: {}", request.message()))
        });

    // All listen before anybody is served: what cannot be had ends the program here.
    let mut bound = Vec::new();
    for _ in 0..threads.get() {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = TcpListener::builder().with_reuse_port(true);
        let listener = runtime.block_on(listener.bind(address))?;
        // where it was for the system to choose, the first has chosen for all
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
                    // a signal is for the process: every thread hears of it
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
