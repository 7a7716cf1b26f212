// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rules, each with a file that breaks it and one that does not.

use std::path::Path;

use super::check;

const HEAD: &str = "// SPDX-License-Identifier: Apache-2.0 OR MIT\n//! Purpose.\n";

/// Lines and first words of the findings for `body` under the usual head.
fn findings(path: &str, body: &str) -> Vec<(usize, String)> {
    check(Path::new(path), &format!("{HEAD}{body}"))
        .into_iter()
        .map(|finding| (finding.line, finding.message))
        .collect()
}

#[track_caller]
fn finds(path: &str, body: &str, expected: &[(usize, &str)]) {
    let found = findings(path, body);
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((line, message), (expected_line, part)) in found.iter().zip(expected) {
        assert_eq!(line, expected_line, "{message}");
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn licence_and_purpose_are_required() {
    let path = Path::new("gateway-user/src/model/mod.rs");
    let found = check(path, "fn a() {}\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(check(path, HEAD).is_empty());
}

#[test]
fn long_files_are_named() {
    finds("xtask/src/a.rs", &"\n".repeat(499), &[(500, "501 lines")]);
    finds("xtask/src/a.rs", &"\n".repeat(498), &[]);
}

#[test]
fn drawers_are_named() {
    finds(
        "gateway-user/src/http/utils.rs",
        "",
        &[(1, "`utils` is a drawer")],
    );
    finds("gateway-user/src/conn/common/mod.rs", "", &[(1, "drawer")]);
}

#[test]
fn imports_may_only_go_left() {
    let path = "gateway-user/src/model/mod.rs";
    finds(
        path,
        "use crate::conn::Limits;\n",
        &[(3, "must not import `conn`")],
    );
    finds(
        "gateway-user/src/translate/istio/mod.rs",
        "use crate::{\n    model::{A, B},\n    resource::C,\n    snapshot::{D, http::E},\n};\n",
        &[(6, "`translate` must not import `snapshot`")],
    );
    finds(path, "fn a(b: crate::http::C) {}\n", &[(3, "`http`")]);
    finds(path, "use crate::{app, origin::Origin};\n", &[(3, "`app`")]);
    finds(path, "use crate::model::listener::Listener;\n", &[]);
    finds("gateway-user/src/app/mod.rs", "use crate::conn::A;\n", &[]);
    finds("gateway-user/src/parlour.rs", "", &[(1, "room `parlour`")]);
}

#[test]
fn imports_in_comments_strings_and_tests_do_not_count() {
    let path = "gateway-user/src/model/mod.rs";
    finds(
        path,
        "// crate::conn\nconst A: &str = \"crate::conn\";\nconst B: &str = r#\"\"crate::conn\"#;\n\
         const C: char = '\"'; // crate::conn\nfn d<'a>(e: &'a str) {}\n/* /* */ crate::conn */\n",
        &[],
    );
    finds(
        path,
        "#[cfg(test)]\nmod tests {\n    use crate::conn::A;\n}\nuse crate::conn::B;\n",
        &[(7, "`conn`")],
    );
    finds(
        "gateway-user/src/model/tests.rs",
        "use crate::conn::A;\n",
        &[],
    );
}

#[test]
fn unsafe_needs_a_safety_note() {
    let path = "xtask/src/a.rs";
    finds(path, "fn a() {\n    unsafe { b() };\n}\n", &[(4, "SAFETY")]);
    finds(
        path,
        "fn a() {\n    // SAFETY: b is fine.\n    unsafe { b() };\n}\n",
        &[],
    );
    finds(
        path,
        "fn a() {\n    // SAFETY: b is fine.\n    let c =\n        unsafe { b() };\n}\n",
        &[],
    );
    finds(path, "// unsafe { }\n", &[]);
}

#[test]
fn panics_need_an_invariant_outside_tests() {
    let path = "gateway-user/src/model/mod.rs";
    finds(
        path,
        "fn a() {\n    b.unwrap();\n}\n",
        &[(4, "`.unwrap()`")],
    );
    finds(
        path,
        "fn a() {\n    // Invariant: b was set above.\n    b.expect(\"set\");\n}\n",
        &[],
    );
    finds(
        path,
        "#[cfg(test)]\nmod tests {\n    fn a() { b.unwrap() }\n}\n",
        &[],
    );
    finds("tests/netns/main.rs", "fn a() { b.unwrap() }\n", &[]);
}

#[test]
fn drop_reasons_are_documented_and_listed() {
    let body = "pub enum DropReason {\n    /// When.\n    A = 0,\n    B = 1,\n}\n\
                const ALL: [DropReason; 2] = [Self::A, Self::B];\nmatch x { Self::A => 1 }\n";
    finds(
        "gateway-common/src/drop_reason.rs",
        body,
        &[(6, "`B` says nothing"), (6, "`B` must be in `ALL`")],
    );
}
