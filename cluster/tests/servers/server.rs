//! A server of a bus as a child process.

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use getty_cluster::{Cluster, ClusterBuilder, bus};

/// Kind of server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Nats,
    Redis,
}

impl Kind {
    pub(crate) fn url(self, port: u16) -> String {
        match self {
            Self::Nats => format!("nats://127.0.0.1:{port}"),
            Self::Redis => format!("redis://127.0.0.1:{port}"),
        }
    }

    /// Returns the builder of a node.
    pub(crate) fn node(url: &str) -> ClusterBuilder {
        Cluster::of("test").over(bus::from_url(url).expect("the URL is valid"))
    }
}

/// A running server. It is killed when it is dropped.
pub(crate) struct Server {
    kind: Kind,
    port: u16,
    child: Option<Child>,
    files: tempfile::TempDir,
    arguments: Vec<String>,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
        Self::with_arguments(kind, |_, _| Vec::new())
    }

    /// Starts a server with more arguments, which may depend on its folder and its port.
    pub(crate) fn with_arguments(
        kind: Kind,
        arguments: impl FnOnce(&Path, u16) -> Vec<String>,
    ) -> Self {
        // Shown by the tests that fail. An error means that another test has set it.
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let port = free_port();
        let files = tempfile::tempdir().expect("a directory is made");
        let mut server = Self {
            kind,
            port,
            child: None,
            arguments: arguments(files.path(), port),
            files,
        };
        server.restart();
        server
    }

    /// Starts the server again on its port, after it was killed.
    pub(crate) fn restart(&mut self) {
        let port = self.port.to_string();
        let mut command = match self.kind {
            Kind::Nats => {
                let mut command = Command::new("nats-server");
                command.args(["--addr", "127.0.0.1", "--port", &port, "--jetstream"]);
                command.arg("--store_dir").arg(self.files.path());
                command
            }
            Kind::Redis => {
                let mut command = Command::new("redis-server");
                command.args(["--port", &port, "--bind", "127.0.0.1"]);
                command.args(["--save", "", "--appendonly", "no"]);
                command
            }
        };
        command.args(&self.arguments);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = self.child.insert(child.expect("the server is installed"));
        // Nodes that find no server try again after some seconds.
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let status = child.try_wait().expect("the server is a child");
            assert_eq!(status, None, "the server has ended");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the server as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the server was running");
            child.wait().expect("the server has ended");
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        self.kind.url(self.port)
    }

    pub(crate) fn files(&self) -> &Path {
        self.files.path()
    }

    /// Returns the builder of a node.
    pub(crate) fn node(&self) -> ClusterBuilder {
        Kind::node(&self.url())
    }

    /// Starts nodes and waits until each knows all others.
    pub(crate) async fn nodes<const N: usize>(&self) -> [Cluster; N] {
        let nodes = [(); N].map(|()| self.node().start());
        for node in &nodes {
            node.up().await;
            until(|| node.nodes().len() == N - 1).await;
        }
        nodes
    }
}

/// Returns a free port. It stays free until a server has it: nothing else asks for one here.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port is free")
        .port()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `condition` is true, for a minute at most.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    for _ in 0..12_000 {
        if condition() {
            return;
        }
        pause.tick().await;
    }
    panic!("the condition has not become true");
}
