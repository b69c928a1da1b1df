//! Accepting after the process has run out of file descriptors. Runs in a separate process.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    task::{Context, Poll},
};

use getty::{
    Address, CodecLayer, Connection, Request, ServiceBuilder, SessionLayer, net::Listener, serve,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{net::TcpListener, sync::Notify};

use crate::support::{echo, lines};

const NAME: &str = "descriptors::accepting_continues_after_the_process_has_run_out_of_descriptors";
const CHILD: &str = "GETTY_TEST_SERVES_WITH_FEW_DESCRIPTORS";
const DESCRIPTORS: u64 = 40;
const CONNECTIONS: usize = 100;

/// Prints a line when accepting fails for the first time. Prints the number of failures at the
/// end.
struct Told {
    listener: TcpListener,
    errors: usize,
}

impl Listener for Told {
    type Io = tokio::net::TcpStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>> {
        let accepted = Listener::poll_accept(&mut self.listener, cx);
        if let Poll::Ready(Err(error)) = &accepted {
            if self.errors == 0 {
                let code = error.raw_os_error().unwrap_or_default();
                println!("failed {code}");
            }
            self.errors += 1;
        }
        accepted
    }

    fn local_addr(&self) -> io::Result<Address> {
        Listener::local_addr(&self.listener)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        println!("errors {}", self.errors);
    }
}

fn serve_with_few_descriptors() {
    let limit = Rlimit {
        current: Some(DESCRIPTORS),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("listening {}", listener.local_addr().unwrap());
        let quit = Arc::new(Notify::new());
        let asked = Arc::clone(&quit);
        let app = ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<String>| {
                if request.message() == "quit" {
                    quit.notify_one();
                }
                echo(request)
            });
        let listener = Told {
            listener,
            errors: 0,
        };
        serve(listener, app)
            .with_graceful_shutdown(async move { asked.notified().await })
            .await
            .unwrap();
    });
}

/// Ends the child process even if the test fails.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn accepting_continues_after_the_process_has_run_out_of_descriptors() {
    if env::var_os(CHILD).is_some() {
        return serve_with_few_descriptors();
    }
    let mut server = Server(
        Command::new(env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut output = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let mut value_of = |what: &str| {
        output
            .find_map(|line| Some(line.unwrap().split_once(what)?.1.to_owned()))
            .unwrap_or_else(|| panic!("the server never printed `{what}`"))
    };
    let address: SocketAddr = value_of("listening ").parse().unwrap();

    let mut clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let out_of_descriptors = rustix::io::Errno::MFILE.raw_os_error();
    assert_eq!(value_of("failed "), out_of_descriptors.to_string());

    // Each connection that ends must make room for one that waits.
    for (n, client) in clients.iter_mut().enumerate() {
        writeln!(client, "{n}").unwrap();
    }
    let last = clients.pop().unwrap();
    for (n, client) in clients.into_iter().enumerate() {
        assert_eq!(answer(&client), n.to_string());
    }
    assert_eq!(answer(&last), (CONNECTIONS - 1).to_string());

    writeln!(&last, "quit").unwrap();
    let errors: usize = value_of("errors ").parse().unwrap();
    assert!(errors < 1000, "the accept loop spins: {errors} errors");
    assert!(server.0.wait().unwrap().success());
}

fn answer(client: &TcpStream) -> String {
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}
