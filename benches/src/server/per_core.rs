//! A runtime for each thread and a listener for each runtime. All are on one port. A connection
//! never leaves its thread.
//!
//! The kernel chooses the listener by a hash of the addresses, so the distribution over the
//! threads is random.

use std::{io, net::TcpListener, thread};

use getty::{Pipeline, serve};
use getty_benches_harness::child::BACKLOG;
use socket2::{Domain, Socket, Type};
use tokio::{net::TcpStream, runtime};

/// Serves the stacks that `stack` creates on `threads` threads. One of them is the calling
/// thread.
///
/// The listener must allow other listeners on its port.
///
/// # Errors
///
/// If a listener or a runtime fails on the calling thread. On another thread, the process ends.
pub fn run<S>(listener: TcpListener, threads: usize, stack: fn() -> S) -> io::Result<()>
where
    S: Pipeline<TcpStream>,
{
    for _ in 1..threads {
        let listener = beside(&listener)?;
        thread::spawn(move || {
            // Without this thread its connections would never be served. So the process must end.
            let outcome = on_this_thread(listener, stack());
            eprintln!("a thread ended: {outcome:?}");
            std::process::exit(1);
        });
    }
    on_this_thread(listener, stack())
}

fn on_this_thread(listener: TcpListener, stack: impl Pipeline<TcpStream>) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = getty::net::TcpListener::try_from(listener)?;
        serve(listener, stack).await.map_err(io::Error::other)?;
        Ok(())
    })
}

/// Opens another listener on the same port.
fn beside(listener: &TcpListener) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&listener.local_addr()?.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
