//! A client ends even if the destructors of its values panic.
//!
//! If this test fails, the process may abort. Then the other tests of the binary report no
//! result.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use getty::{
    BoxError, Session,
    client::{Client, Decision, Pick},
    service_fn,
};
use tower::ServiceExt;

use crate::support::{Host, echo, idle, ignoring_client, soon, without_jitter};

/// Counts values whose destructor panics.
#[derive(Debug, Default)]
struct Counts {
    created: AtomicUsize,
    dropped: AtomicUsize,
}

impl Counts {
    fn value(self: &Arc<Self>) -> PanicOnDrop {
        self.created.fetch_add(1, SeqCst);
        PanicOnDrop(Arc::clone(self))
    }
}

#[derive(Debug)]
struct PanicOnDrop(Arc<Counts>);

impl PanicOnDrop {
    /// Drops the value without a panic.
    fn defuse(self) {
        self.0.dropped.fetch_add(1, SeqCst);
        std::mem::forget(self);
    }
}

impl Clone for PanicOnDrop {
    fn clone(&self) -> Self {
        self.0.value()
    }
}

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, SeqCst);
        panic!("a bad destructor");
    }
}

/// State of the client when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientState {
    Dialling,
    InHook,
    Open,
}

/// Returns a client each of whose closures and futures holds a value that panics on drop.
fn client(counts: &Arc<Counts>, host: &Host, state: ClientState) -> Client<String> {
    let [dial, build, retry_policy, pick, first, second] = std::array::from_fn(|_| counts.value());
    let connector = host.connector();
    let connector = service_fn(move |target: PanicOnDrop| {
        let value = dial.clone();
        target.defuse();
        let dial = connector.clone().oneshot(());
        async move {
            if state == ClientState::Dialling {
                let _value = &value;
                pending::<()>().await;
            }
            value.defuse();
            Ok::<_, BoxError>(dial.await?)
        }
    });
    without_jitter()
        .with_retry_policy(move |_| {
            let _value = &retry_policy;
            Decision::Retry
        })
        .with_pick(Pick::least(move |_| {
            let _value = &pick;
            0
        }))
        .with_hook(move |_: Session<String>| {
            let value = first.clone();
            async move {
                if state == ClientState::InHook {
                    let _value = &value;
                    pending::<()>().await;
                }
                value.defuse();
                Ok::<_, BoxError>(())
            }
        })
        .with_hook(move |_| {
            let _value = &second;
            async { Ok::<_, BoxError>(()) }
        })
        .connect(connector, counts.value(), move |link| {
            let _value = &build;
            ignoring_client(link)
        })
}

#[test]
fn client_ends_even_if_its_values_panic_on_drop() {
    for state in [
        ClientState::Dialling,
        ClientState::InHook,
        ClientState::Open,
    ] {
        for stops in [true, false] {
            let counts = Arc::<Counts>::default();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            let client = runtime.block_on(async {
                let host = Host::default();
                let _server = host.serve(echo());
                let client = client(&counts, &host, state);
                idle().await;
                assert_eq!(client.is_open(), state == ClientState::Open);
                if stops {
                    client.stop();
                    soon(client.stopped()).await;
                }
                client
            });
            // If the client was not stopped, the runtime must drop its task.
            drop(runtime);
            drop(client);
            let created = counts.created.load(SeqCst);
            assert!(created >= 8);
            assert_eq!(
                counts.dropped.load(SeqCst),
                created,
                "{state:?}, stopped: {stops}"
            );
        }
    }
}
