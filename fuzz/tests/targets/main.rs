//! Runs the fuzz targets on stable Rust: all seeds, then random changes of them.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `GETTY_FUZZ_SECONDS` | 0 | time for each target; at 0 each runs 200 changed inputs |
//! | `GETTY_FUZZ_SEED` | 1 | seed of the changes |
//! | `GETTY_FUZZ_INPUT` | none | file with the only input, to repeat a failure |
//!
//! A failing input is reduced, printed and saved. An input that aborts the process is in the
//! file `<target>.current` in the same folder. One that hangs is there as well, and fails the
//! process after two minutes.

mod mutate;

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Write},
    panic::{self, AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use getty_fuzz::{TARGETS, Target};

use self::mutate::{Random, mutated, reduced};

/// Number of changed inputs without a time.
const RUNS: u64 = 200;
/// Maximum of a changed input, in bytes.
const MAX_LENGTH: usize = 4096;

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap();
        (path, bytes)
    };
    files.into_iter().map(read).collect()
}

/// Ends the process if no run completes for two minutes. Dropped, it ends its thread.
struct Watchdog(Arc<AtomicU64>);

impl Watchdog {
    const STEP: Duration = Duration::from_secs(1);
    const STEPS: u32 = 120;

    fn new(target: &Target, current: &Path) -> Self {
        let runs = Arc::new(AtomicU64::new(0));
        let (counted, name, current) = (Arc::downgrade(&runs), target.name, current.to_owned());
        thread::spawn(move || {
            let (mut last, mut steps) = (0, 0);
            while let Some(runs) = counted.upgrade() {
                let runs = runs.load(Relaxed);
                steps = if runs == last { steps + 1 } else { 0 };
                last = runs;
                if steps == Self::STEPS {
                    // Not captured, as the output of a test is.
                    let _ = writeln!(
                        io::stderr(),
                        "{name} hangs: repeat it with GETTY_FUZZ_INPUT={}",
                        current.display()
                    );
                    process::exit(1);
                }
                thread::sleep(Self::STEP);
            }
        });
        Self(runs)
    }

    fn count(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn fails(target: &Target, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err()
}

/// Reports a failing input and fails the test.
fn report(target: &Target, input: &[u8], origin: &str, watchdog: &Watchdog) -> ! {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let reduced = reduced(input, |input| {
        watchdog.count();
        fails(target, input)
    });
    panic::set_hook(hook);
    let file = scratch(target, "failure");
    fs::write(&file, &reduced).unwrap();
    eprintln!("the reduced input fails with:");
    let _ = fails(target, &reduced);
    panic!(
        "{} fails for {origin}: b\"{}\"\nrepeat it with GETTY_FUZZ_INPUT={}",
        target.name,
        reduced.escape_ascii(),
        file.display()
    );
}

fn scratch(target: &Target, kind: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.{kind}", target.name))
}

fn number(name: &str, default: u64) -> u64 {
    let value = env::var(name).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.expect("the target is listed");
    if let Some(file) = env::var_os("GETTY_FUZZ_INPUT").filter(|file| *file != OsString::new()) {
        return (target.run)(&fs::read(file).unwrap());
    }
    let seeds = corpus(target);
    let current = scratch(target, "current");
    let watchdog = Watchdog::new(target, &current);
    for (path, input) in &seeds {
        fs::write(&current, input).unwrap();
        if fails(target, input) {
            report(target, input, &path.display().to_string(), &watchdog);
        }
        watchdog.count();
    }
    let inputs: Vec<Vec<u8>> = seeds.into_iter().map(|(_, input)| input).collect();
    let seed = number("GETTY_FUZZ_SEED", 1);
    let time = Duration::from_secs(number("GETTY_FUZZ_SECONDS", 0));
    let start = Instant::now();
    let mut random = Random::new(seed);
    let mut runs = 0;
    while if time.is_zero() {
        runs < RUNS
    } else {
        start.elapsed() < time
    } {
        let input = mutated(&inputs, MAX_LENGTH, &mut random);
        fs::write(&current, &input).unwrap();
        if fails(target, &input) {
            let origin = format!("change {runs} of seed {seed}");
            report(target, &input, &origin, &watchdog);
        }
        watchdog.count();
        runs += 1;
    }
    fs::remove_file(&current).unwrap();
    println!("{name}: {} seeds, {runs} changed inputs", inputs.len());
}

macro_rules! tests {
    ($($module:ident { $($name:ident,)* })*) => {
        $($(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*)*
    };
}

getty_fuzz::with_targets!(tests);

/// libFuzzer needs a program for each target, and a reader the target's row.
#[test]
fn every_target_has_a_program_and_a_row() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(fuzz.join(path)).unwrap();
    let manifest = read("libfuzzer/Cargo.toml");
    let names = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("name = "));
    let names: Vec<&str> = names.skip(1).map(|name| name.trim_matches('"')).collect();
    let targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, targets);
    let page = read("../docs/fuzzing.md");
    for name in targets {
        let program = read(&format!("libfuzzer/fuzz_targets/{name}.rs"));
        assert!(
            program.contains(&format!("getty_fuzz::{name}(data)")),
            "{program}"
        );
        assert!(
            page.contains(&format!("`{name}`")),
            "docs/fuzzing.md has no `{name}`"
        );
    }
}
