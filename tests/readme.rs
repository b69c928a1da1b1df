//! Tests of README.md and of the pages in docs/ with programs. The program that README.md shows
//! must be the example `quickstart`, and all code blocks in Rust must compile. CI runs the
//! commands.

use std::{fs, path::Path};

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the content of the first code block whose opening line starts with `fence`.
fn block<'a>(text: &'a str, fence: &str) -> &'a str {
    let (_, after) = text.split_once(fence).expect("the text contains the fence");
    let (_, code) = after
        .split_once('\n')
        .expect("the fence is followed by a line");
    code.split_once("```").expect("the block ends").0
}

/// Returns the language of each code block.
fn languages(text: &str) -> Vec<&str> {
    let fences = text.lines().filter_map(|line| line.strip_prefix("```"));
    fences.step_by(2).collect()
}

#[test]
fn every_code_block_of_the_readme_has_a_known_language() {
    let readme = read("README.md");
    let languages = languages(&readme);
    assert!(languages.contains(&"rust,no_run"));
    for language in languages {
        // The documentation tests compile blocks of Rust. Other blocks, such as `ignore`, could be
        // wrong.
        assert!(
            ["rust", "rust,no_run", "sh", "text", "toml"].contains(&language),
            "{language}"
        );
    }
}

#[test]
fn pages_for_users_of_other_libraries_show_two_programs_and_are_documentation_tests() {
    let library = read("src/lib.rs");
    for (page, theirs) in [
        ("docs/from-go-getty.md", "go"),
        ("docs/from-netty.md", "java"),
        ("docs/from-axum.md", "rust,no_run"),
        ("docs/from-framed.md", "rust"),
    ] {
        let text = read(page);
        assert_eq!(languages(&text), [theirs, "rust"], "{page}");
        let included = format!("#[doc = include_str!(\"../{page}\")]");
        assert!(library.contains(&included), "{page} is not compiled");
        assert!(read("README.md").contains(&format!("]({page})")), "{page}");
    }
}

#[test]
fn readme_shows_the_quickstart() {
    let quickstart = read("examples/quickstart.rs");
    let (header, program) = quickstart
        .split_once("\n\n")
        .expect("the example has a header");
    assert!(
        header.lines().all(|line| line.starts_with("//!")),
        "{header}"
    );
    assert_eq!(block(&read("README.md"), "```rust"), program);
    assert!(
        program.lines().count() <= 28,
        "the program fits on a screen"
    );
}
