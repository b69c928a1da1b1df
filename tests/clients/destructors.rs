//! A client ends even if the destructors of its values panic.
//!
//! If one fails, the process aborts, and no other test of the binary reports a result.

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

use crate::support::{Place, deaf, echo, even, idle, soon};

/// Numbers of bombs that were made, and that were dropped.
#[derive(Debug, Default)]
struct Bombs {
    made: AtomicUsize,
    dropped: AtomicUsize,
}

impl Bombs {
    fn bomb(self: &Arc<Self>) -> Bomb {
        self.made.fetch_add(1, SeqCst);
        Bomb(Arc::clone(self))
    }
}

/// Panics when it is dropped.
#[derive(Debug)]
struct Bomb(Arc<Bombs>);

impl Bomb {
    fn disarm(self) {
        self.0.dropped.fetch_add(1, SeqCst);
        std::mem::forget(self);
    }
}

impl Clone for Bomb {
    fn clone(&self) -> Self {
        self.0.bomb()
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, SeqCst);
        panic!("a bad destructor");
    }
}

/// Activity of the client when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Dialling,
    Preparing,
    Open,
}

/// A client with a bomb in each of its values.
fn client(bombs: &Arc<Bombs>, place: &Place, doing: Doing) -> Client<String> {
    let (dial, build, decision, pick) = (bombs.bomb(), bombs.bomb(), bombs.bomb(), bombs.bomb());
    let (first, second) = (bombs.bomb(), bombs.bomb());
    let dialled = place.connector();
    let connector = service_fn(move |target: Bomb| {
        let bomb = dial.clone();
        target.disarm();
        let dialling = dialled.clone().oneshot(());
        async move {
            if doing == Doing::Dialling {
                let _bomb = &bomb;
                pending::<()>().await;
            }
            bomb.disarm();
            Ok::<_, BoxError>(dialling.await?)
        }
    });
    even()
        .with_decision(move |_| {
            let _bomb = &decision;
            Decision::Retry
        })
        .with_pick(Pick::least(move |_| {
            let _bomb = &pick;
            0
        }))
        .with_hook(move |_: Session<String>| {
            let bomb = first.clone();
            async move {
                if doing == Doing::Preparing {
                    let _bomb = &bomb;
                    pending::<()>().await;
                }
                bomb.disarm();
                Ok::<_, BoxError>(())
            }
        })
        .with_hook(move |_| {
            let _bomb = &second;
            async { Ok::<_, BoxError>(()) }
        })
        .connect(connector, bombs.bomb(), move |link| {
            let _bomb = &build;
            deaf(link)
        })
}

#[test]
fn a_client_ends_though_its_values_panic_as_they_are_dropped() {
    for doing in [Doing::Dialling, Doing::Preparing, Doing::Open] {
        for stops in [true, false] {
            let bombs = Arc::<Bombs>::default();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            let client = runtime.block_on(async {
                let place = Place::default();
                let _server = place.serve(echo());
                let client = client(&bombs, &place, doing);
                idle().await;
                assert_eq!(client.is_open(), doing == Doing::Open);
                if stops {
                    client.stop();
                    soon(client.stopped()).await;
                }
                client
            });
            // without a stop the runtime drops the client's task
            drop(runtime);
            drop(client);
            let made = bombs.made.load(SeqCst);
            assert!(made >= 8);
            assert_eq!(bombs.dropped.load(SeqCst), made, "{doing:?}, {stops}");
        }
    }
}
