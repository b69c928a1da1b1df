//! The README shows a program that exists. That its commands are run is for CI to see to.

use std::{fs, path::Path};

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between the first line that starts with `fence` and the end of that block.
fn block<'a>(text: &'a str, fence: &str) -> &'a str {
    let (_, after) = text.split_once(fence).expect("there is such a block");
    let (_, code) = after.split_once('\n').expect("it has a first line");
    code.split_once("```").expect("it has an end").0
}

#[test]
fn all_code_in_the_readme_is_compiled() {
    let readme = read("README.md");
    let fences = readme.lines().filter_map(|line| line.strip_prefix("```"));
    let opening: Vec<_> = fences.step_by(2).collect();
    assert!(opening.contains(&"rust,no_run"));
    for language in opening {
        assert!(
            ["rust", "rust,no_run", "sh", "text", "toml"].contains(&language),
            "{language}"
        );
    }
}

#[test]
fn readme_shows_the_quickstart() {
    let quickstart = read("examples/quickstart.rs");
    let (header, program) = quickstart.split_once("\n\n").expect("a header comes first");
    assert!(
        header.lines().all(|line| line.starts_with("//!")),
        "{header}"
    );
    assert_eq!(block(&read("README.md"), "```rust"), program);
    assert!(quickstart.lines().count() <= 30, "it is no longer quick");
}
