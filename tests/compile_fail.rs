//! The commonest mistakes in a stack, and what the compiler says of them.
//!
//! Each file in `compile_fail/` is a program with one mistake. What rustc says of it is not compared word for word (as
//! trybuild would), because that would hold for one version of rustc: each error must name the mistake, within fifteen
//! lines. Lines in which rustc traces the error back to the bound of `getty::serve`, or quotes our own source, are not
//! among these, but are limited too.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// How long an error may be, without the trace.
const LONGEST: usize = 15;
/// How long it may be with it.
const LONGEST_WITH_TRACE: usize = 40;

/// A file, and for each error that rustc gives for it what the error must contain.
type Mistake = (&'static str, &'static [&'static [&'static str]]);

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
            "a handler whose session sends `String` cannot answer with `usize`",
            "return `String`, or an `Option`, `Vec` or `Reply` of it",
        ]],
    ),
    (
        "websocket_twice",
        &[
            &["is not a transport"],
            &[
                "`WsTransport<tokio::net::TcpStream>` is not a byte stream",
                "`TlsLayer` goes outside of `WsLayer`, both outside of `CodecLayer`",
            ],
        ],
    ),
    (
        "lost_reply",
        &[&["a handler whose session sends `String` cannot answer with `()`"]],
    ),
    (
        "correlate_of_other_messages",
        &[
            &["cannot look at messages of type `String`, which the codec decodes"],
            &[
                "`Words` cannot match what its session receives, `String`, with what it sends, `String`",
                "has to be `Correlate<String, String>`",
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
                "the handler of `HandleErrorLayer::typed` does not take the error `Box<(dyn",
                "take that type, or any error with `HandleErrorLayer::new`",
            ],
            &["expected `Result<String, Error>`, found `Result<String, Box<...>>`"],
        ],
    ),
    (
        "stock_layer_outside",
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
        "message_stack_not_clone",
        &[&[
            "`SessionLayer::new` clones the message stack for each session, but `RateLimit<",
            "is not `Clone`",
            "`SessionLayer::per_session()` makes a stack for each session",
        ]],
    ),
];

#[test]
fn each_mistake_is_named_in_a_few_lines() {
    let programs = Programs::new();
    let mut complaints = String::new();
    for (name, expected) in MISTAKES {
        let said = programs.check(name);
        let errors = errors(&said);
        let mut complain = |what: &str| complaints += &format!("{name}: {what}\n{said}\n\n");
        if errors.len() != expected.len() {
            complain(&format!("{} errors, not {}", errors.len(), expected.len()));
        }
        for (error, fragments) in errors.iter().zip(*expected) {
            let counted = without_trace(error);
            if counted.len() > LONGEST || error.len() > LONGEST_WITH_TRACE {
                complain(&format!(
                    "an error of {} lines, {} with the trace",
                    counted.len(),
                    error.len()
                ));
            }
            let counted = counted.join("\n");
            for fragment in *fragments {
                if !counted.contains(fragment) {
                    complain(&format!("`{fragment}` is not said"));
                }
            }
        }
    }
    assert!(complaints.is_empty(), "{complaints}");
}

#[test]
fn each_program_is_in_the_table() {
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

/// The errors in what rustc has said: each from its first line to an empty one.
fn errors(said: &str) -> Vec<Vec<&str>> {
    said.split("\n\n")
        .map(|paragraph| paragraph.lines().collect::<Vec<_>>())
        .filter(|lines| {
            lines.first().is_some_and(|first| {
                first.starts_with("error") && !first.starts_with("error: could not compile")
            })
        })
        .collect()
}

/// The error without its trace, and without what it quotes of our own source.
fn without_trace<'a>(error: &[&'a str]) -> Vec<&'a str> {
    let begins = |line: &str, with: &[&str]| {
        let line = line.trim_start();
        with.iter().any(|start| line.starts_with(start))
    };
    let mut quotes_ours = false;
    error
        .iter()
        .take_while(|line| !begins(line, &["= note: required for", "note: required by a bound"]))
        .filter(|line| {
            if begins(line, &["-->"]) {
                quotes_ours = !line.contains("src/bin/");
            } else if begins(line, &["=", "help:", "note:"]) {
                quotes_ours = false;
            }
            !quotes_ours
        })
        .copied()
        .collect()
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail")
}

/// A package outside the workspace, whose binaries are the programs.
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
        // the same versions as those of the workspace, which are there already: nothing is fetched
        fs::copy(getty.join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
        for (name, _) in MISTAKES {
            let file = format!("{name}.rs");
            fs::copy(sources().join(&file), programs.join(&file)).unwrap();
        }
        fs::write(programs.join("right.rs"), "fn main() {}").unwrap();
        let programs = Self { package };
        // builds what the programs depend on, so that what is said later is of the programs
        let said = programs.check("right");
        assert!(errors(&said).is_empty(), "{said}");
        programs
    }

    /// What cargo and rustc say of one of the programs.
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
getty = {{ path = {getty:?}, features = ["ws"] }}
tokio = {{ version = "1", features = ["net", "rt"] }}
tokio-util = {{ version = "0.7", features = ["codec"] }}

[lints.rust]
dead_code = "allow"
"#
    )
}
