//! Compiler errors for the most common mistakes in a stack.
//!
//! Each file in `compile_fail/` is a program with one mistake. Each error of rustc must name
//! the mistake within fifteen lines. Two kinds of lines have a separate limit: those that trace
//! the error to the bound of `getty::serve` and those that quote getty's source.
//!
//! The tests do not compare the whole output. It may differ between versions of rustc
//! (design.md: Why do the tests not use trybuild?).

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Maximum length of an error without its trace, in lines.
const MAX_LINES: usize = 15;
/// Maximum length of an error with its trace, in lines.
const MAX_LINES_WITH_TRACE: usize = 40;

/// The name of a file and the fragments that each of its errors must contain.
type Mistake = (&'static str, &'static [&'static [&'static str]]);

/// Fragments of the errors about arguments and about results of handlers.
const ARGUMENTS: &str = "the first argument is the message or made of it, such as `Json<T>`; \
                         the others are `Session<";
const OUTPUTS: &str = "return `String`, an `Option`, `Vec` or `Reply` of it, `NoReply`, or a \
                       `Result` of one of these";

const MISTAKES: &[Mistake] = &[
    (
        "wrong_message_type",
        &[&[
            "|request: Request<Vec<u8>, String>|",
            "found signature defined here",
            "Request<String, _>",
            "Request<Vec<u8>, String>",
        ]],
    ),
    (
        "wrong_reply_type",
        &[&[
            "a handler whose session sends `String` cannot reply with `usize`",
            "return `String`, or an `Option`, `Vec` or `Reply` of it",
        ]],
    ),
    (
        "switch_not_per_connection",
        &[&[
            "the trait `Clone` is not implemented for `Switch<",
            "required by a bound introduced by this call",
        ]],
    ),
    (
        "websocket_twice",
        &[
            &["is not a transport"],
            &[
                "`WsTransport<tokio::net::TcpStream>` is not a byte stream",
                "`TlsLayer` belongs outside `WsLayer`, both outside `CodecLayer`",
            ],
        ],
    ),
    (
        "compression_outside_websocket",
        &[
            &["is not a transport"],
            &["`Compressed<tokio::net::TcpStream>` is not a byte stream"],
        ],
    ),
    (
        "lost_reply",
        &[&["a handler whose session sends `String` cannot reply with `()`"]],
    ),
    (
        "correlate_of_other_messages",
        &[
            &["cannot filter messages of type `String`, which the codec decodes"],
            &[
                "`Words` cannot match responses of type `String` to requests of type `String`",
                "must be `Correlate<String, String>`",
                "`Correlate<u32, u32>` is implemented for it",
            ],
        ],
    ),
    (
        "handler_not_send",
        &[&[
            "not `Send`",
            "let line = Rc::new(",
            "has type `Rc<String>` which is not `Send`",
            "await occurs here",
        ]],
    ),
    (
        "layers_swapped",
        &[
            &[
                "`SessionLayer` needs a framed connection, got `tokio::net::TcpStream`",
                "put a `CodecLayer` outside (before) `SessionLayer`",
            ],
            &["`Service<getty::Request<_, _>>` is not implemented for `Codec<"],
        ],
    ),
    ("message_layer_outside", &[&["HandleError<"]]),
    (
        "handle_error_of_other_type",
        &[
            &[
                "the handler of this `HandleErrorLayer` does not take the error `Box<(dyn",
                "take that type, or any error with `HandleErrorLayer::new`",
            ],
            &["expected `Result<String, Error>`, found `Result<String, Box<...>>`"],
        ],
    ),
    (
        "tower_layer_outside",
        &[&[
            ".map_request(|request: Request<String>|",
            "found signature defined here",
            "fn(Connection<",
            "fn(getty::Request<String>)",
        ]],
    ),
    (
        "no_codec",
        &[&[
            "`SessionLayer` needs a framed connection, got `tokio::net::TcpStream`",
            "put a `CodecLayer` outside (before) `SessionLayer`",
        ]],
    ),
    (
        "socket_not_converted",
        &[&[
            "`UdpSocket` is not a listener",
            "is converted, such as with `getty::net::UdpListener::try_from(socket)?`",
        ]],
    ),
    (
        "codec_cannot_encode",
        &[&["the codec `LinesCodec` cannot encode `usize`, which the session is to send"]],
    ),
    (
        "no_session_layer",
        &[&[
            "|request: Request<String>|",
            "found signature defined here",
            "fn(Connection<",
            "fn(getty::Request<String>)",
        ]],
    ),
    (
        "router_outside",
        &[&[
            "`HandleError<Router<Packet, Packet>, ",
            "Service<Connection<",
        ]],
    ),
    (
        "malformed_not_tolerant",
        &[
            &[
                "cannot decode a `Result<_, getty::codec::Malformed>`",
                "needs `.tolerant()` on the codec",
            ],
            &[
                "cannot decode a `Result<_, getty::codec::Malformed>`",
                "needs `.tolerant()` on the codec",
            ],
        ],
    ),
    (
        "message_stack_not_clone",
        &[&[
            "`SessionLayer::new` clones the message stack for each session, but `RateLimit<",
            "is not `Clone`",
            "`SessionLayer::per_session()` makes a stack for each session",
        ]],
    ),
    // Mistakes in handlers are reported where the handler is named, and again where the stack is
    // served. The order of the two is rustc's.
    (
        "handler_argument",
        &[
            &[
                "`User` cannot be made of a session that sends",
                ".service(handle(say))",
                ARGUMENTS,
            ],
            &[
                "`User` cannot be made of a session that sends `String`",
                ARGUMENTS,
            ],
        ],
    ),
    (
        "handler_argument_order",
        &[
            &[
                "`String` cannot be made of a session",
                ".service(handle(say))",
                ARGUMENTS,
            ],
            &[
                "`String` cannot be made of a session that sends `String`",
                ARGUMENTS,
            ],
        ],
    ),
    (
        "handler_state",
        &[
            &[
                "the state of this handler's service is `()`, which has no `Rooms`",
                ".service(handle(say))",
                "`handle_with(state, ..)` and `Router::with_state(state)` set the state",
            ],
            &["the state of this handler's service is `()`, which has no `Rooms`"],
        ],
    ),
    (
        "handler_future_not_send",
        &[&[
            "future returned by `say` is not `Send`",
            ".service(handle(say))",
            "has type `Rc<String>` which is not `Send`",
            "await occurs here",
        ]],
    ),
    (
        "handler_return",
        &[
            &[
                "a handler whose session sends `String` cannot return `impl Future<Output = usize>`",
                ".service(handle(length))",
                OUTPUTS,
            ],
            &["cannot return `impl Future<Output = usize>`", OUTPUTS],
        ],
    ),
    (
        "handler_return_now",
        &[
            &["the codec `LinesCodec` cannot encode `usize`, which the session is to send"],
            &[
                "a handler whose session sends `String` cannot return `usize`",
                ".service(handle(length))",
                OUTPUTS,
            ],
        ],
    ),
    (
        "handler_lost_reply",
        &[
            &[
                "cannot return `impl Future<Output = ()>`",
                ".service(handle(upper))",
                OUTPUTS,
            ],
            &["cannot return `impl Future<Output = ()>`", OUTPUTS],
        ],
    ),
    (
        "route_argument",
        &[&[
            "`User` cannot be made of a session that sends `String` and the state `()`",
            ".route(\"say\", say)",
            ARGUMENTS,
        ]],
    ),
    (
        "route_argument_order",
        &[&[
            "`Command` cannot be made of a session that sends `String` and the state `()`",
            ".route(\"say\", say)",
            ARGUMENTS,
        ]],
    ),
    (
        "route_state",
        &[&[
            "the state of this handler's service is `()`, which has no `Rooms`",
            ".route(\"say\", say)",
            "`impl PartOf<()> for Rooms` makes this type a part",
        ]],
    ),
    (
        "route_future_not_send",
        &[&[
            "future returned by `say` is not `Send`",
            ".route(\"say\", say)",
            "has type `Rc<String>` which is not `Send`",
            "await occurs here",
        ]],
    ),
    (
        "route_return",
        &[&[
            "a handler whose session sends `String` cannot return `impl Future<Output = usize>`",
            ".route(\"say\", say)",
            OUTPUTS,
        ]],
    ),
    (
        "route_lost_reply",
        &[&[
            "a handler whose session sends `String` cannot return `()`",
            ".route(\"say\", say)",
            OUTPUTS,
        ]],
    ),
    (
        "route_payload",
        &[&[
            "`Json<Say>` cannot be the first argument of a handler of `Tagged`",
            ".route(\"say\", say)",
            "`Json<T>` needs `T: Deserialize` and `Tagged: Payload`",
        ]],
    ),
    (
        "route_not_keyed",
        &[
            &[
                "`Command` has no key, by which a `Router` finds its handler",
                "`impl Keyed for Command` returns the key of a message",
            ],
            &["`Command` has no key, by which a `Router` finds its handler"],
            &["the following trait bounds were not satisfied"],
        ],
    ),
    (
        "route_key_type",
        &[&[
            "`&str` is not the key of a route to messages with the key `u16`",
            ".route(\"say\", say)",
        ]],
    ),
];

#[test]
fn compiler_names_each_mistake_in_a_few_lines() {
    let programs = Programs::new();
    let mut failures = String::new();
    for (name, expected) in MISTAKES {
        let output = programs.check(name);
        let errors = errors(&output);
        let mut fail = |reason: &str| failures += &format!("{name}: {reason}\n{output}\n\n");
        if errors.len() != expected.len() {
            fail(&format!("{} errors, not {}", errors.len(), expected.len()));
        }
        for (error, fragments) in errors.iter().zip(*expected) {
            let counted = without_trace(error);
            if counted.len() > MAX_LINES || error.len() > MAX_LINES_WITH_TRACE {
                fail(&format!(
                    "an error of {} lines, {} with the trace",
                    counted.len(),
                    error.len()
                ));
            }
            let counted = counted.join("\n");
            for fragment in *fragments {
                if !counted.contains(fragment) {
                    fail(&format!("`{fragment}` is missing"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn table_lists_every_program() {
    let mut files: Vec<_> = fs::read_dir(sources())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let mut table: Vec<_> = MISTAKES.iter().map(|(name, _)| name.to_string()).collect();
    files.sort();
    table.sort();
    assert_eq!(files, table);
}

/// Returns the lines of each error in the output of rustc. An error ends at an empty line.
fn errors(output: &str) -> Vec<Vec<&str>> {
    output
        .split("\n\n")
        .map(|paragraph| paragraph.lines().collect::<Vec<_>>())
        .filter(|lines| {
            lines.first().is_some_and(|first| {
                first.starts_with("error") && !first.starts_with("error: could not compile")
            })
        })
        .collect()
}

/// Returns the error without its trace, without lists of types and without quotes of getty's
/// source.
fn without_trace<'a>(error: &[&'a str]) -> Vec<&'a str> {
    let starts_with = |line: &str, prefixes: &[&str]| {
        let line = line.trim_start();
        prefixes.iter().any(|prefix| line.starts_with(prefix))
    };
    let mut quotes_getty = false;
    error
        .iter()
        .take_while(|line| {
            let trace = [
                "= note: required for",
                "note: required by a bound",
                "= help: the following other types implement",
            ];
            !starts_with(line, &trace)
        })
        .filter(|line| {
            if starts_with(line, &["-->"]) {
                quotes_getty = !line.contains("src/bin/");
            } else if starts_with(line, &["=", "help:", "note:"]) {
                quotes_getty = false;
            }
            !quotes_getty
        })
        .copied()
        .collect()
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail")
}

/// A package outside the workspace. Each program is one of its binaries.
struct Programs {
    package: PathBuf,
}

impl Programs {
    fn new() -> Self {
        let getty = Path::new(env!("CARGO_MANIFEST_DIR"));
        let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile_fail");
        let programs = package.join("src/bin");
        let _ = fs::remove_dir_all(&programs);
        fs::create_dir_all(&programs).unwrap();
        fs::write(package.join("Cargo.toml"), manifest(getty)).unwrap();
        // With the versions of the workspace cargo needs no network: they are already downloaded.
        fs::copy(getty.join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
        for (name, _) in MISTAKES {
            let file = format!("{name}.rs");
            fs::copy(sources().join(&file), programs.join(&file)).unwrap();
        }
        fs::write(programs.join("correct.rs"), "fn main() {}").unwrap();
        let programs = Self { package };
        // Build the dependencies first. Then later output can only be about the programs.
        let output = programs.check("correct");
        assert!(errors(&output).is_empty(), "{output}");
        programs
    }

    /// Checks one program. Returns the output of cargo and rustc.
    fn check(&self, name: &str) -> String {
        let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(&self.package)
            .args([
                "check",
                "--quiet",
                "--offline",
                "--color=never",
                "--bin",
                name,
            ])
            .env("CARGO_TARGET_DIR", self.package.join("target"))
            .env("CARGO_INCREMENTAL", "0")
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .output()
            .unwrap();
        String::from_utf8(output.stderr).unwrap()
    }
}

fn manifest(getty: &Path) -> String {
    format!(
        r#"[package]
name = "mistakes"
edition = "2024"

[workspace]

[dependencies]
getty = {{ path = {getty:?}, features = ["compression", "json", "ws"] }}
tokio = {{ version = "1", features = ["net", "rt"] }}
tokio-util = {{ version = "0.7", features = ["codec"] }}

[lints.rust]
dead_code = "allow"
"#
    )
}
