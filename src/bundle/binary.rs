//! Programs that are linked into one file: what they have in common is in the bundle, on a disk and in memory once.
//!
//! Upstream's programs are packages `main`, which nobody can import, and made of packages that only their own module may
//! import. So a folder of links stands in for each of their modules, in which only the programs' own files are copies: with
//! another package clause, and with `Main` in place of `main`. Which program the file is, the name says by which it is started.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::parts::OWN_PACKAGES;
use super::target::{FOLDER, Target, module_path};
use super::toolchain::Toolchain;
use crate::fsx;

/// The go.mod that has the stand-ins, in the same place.
const MODULE: &str = "binaries.mod";

/// Writes what the targets of a module need beside it, and returns the go.mod that they are built with.
pub(super) async fn prepare(toolchain: &Toolchain, module: &str, targets: &[Target<'_>]) -> Result<PathBuf> {
    let folder = toolchain.modules().join(module);
    let path = module_path(&fsx::read_text(&folder.join("go.mod"))?);
    let work = folder.join(FOLDER);
    fsx::remove_dir(&work)?;
    // What stands in for what: a module's path, its folder, and the folders of programs in it.
    let mut shadows: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for target in targets {
        let Some(binary) = target.binary else { continue };
        let mut packages = BTreeMap::new();
        for program in &target.members {
            let package = program.package.as_deref().unwrap_or_default();
            if let Some(own) = package.strip_prefix(OWN_PACKAGES) {
                let place = work.join(binary).join(&program.name);
                copy_importable(&toolchain.modules().join(own), &place)?;
                packages.insert(program.name.as_str(), format!("{path}/{FOLDER}/{binary}/{}", program.name));
                continue;
            }
            let from = program.from.as_deref().unwrap_or_default();
            let inner = package.strip_prefix(from).unwrap_or_default().trim_start_matches('/');
            shadows.entry(from).or_default().insert(inner);
            packages.insert(program.name.as_str(), package.to_owned());
        }
        let place = work.join(binary);
        fsx::create_dir(&place)?;
        fsx::write(&place.join("main.go"), main_file(&packages))?;
    }
    let file = folder.join(MODULE);
    fsx::write(&file, fsx::read(&folder.join("go.mod"))?)?;
    fsx::write(&file.with_extension("sum"), fsx::read(&folder.join("go.sum"))?)?;
    for (from, inner) in shadows {
        let name = from.replace('/', "_");
        let source = toolchain.module_folder(module, from).await?;
        shadow(&source, &work.join("modules").join(&name), &inner)?;
        toolchain.replace(module, &file, from, &format!("./{FOLDER}/modules/{name}")).await?;
    }
    Ok(file)
}

/// A folder that has everything of another one by links, but for the Go files of some folders in it, which are copies to be
/// imported.
fn shadow(source: &Path, target: &Path, programs: &BTreeSet<&str>) -> Result<()> {
    fsx::create_dir(target)?;
    if programs.contains("") {
        copy_importable(source, target)?;
    }
    for name in fsx::list(source)? {
        let (from, to) = (source.join(&name), target.join(&name));
        let inner: BTreeSet<&str> = programs
            .iter()
            .filter_map(|program| program.strip_prefix(name.as_str()))
            .filter_map(|rest| if rest.is_empty() { Some("") } else { rest.strip_prefix('/') })
            .collect();
        if inner.is_empty() {
            if !(programs.contains("") && is_go(&name)) {
                fsx::symlink(&from, &to)?;
            }
        } else {
            shadow(&from, &to, &inner)?;
        }
    }
    Ok(())
}

fn is_go(name: &str) -> bool {
    name.strip_suffix(".go").is_some()
}

fn copy_importable(source: &Path, target: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    for name in fsx::list(source)?.into_iter().filter(|name| is_go(name) && !name.ends_with("_test.go")) {
        files.insert(name.clone(), fsx::read_text(&source.join(&name))?);
    }
    let files = importable(files).map_err(|reason| Error::Go {
        action: format!("make the program in {} one that can be linked with others", source.display()),
        output: reason,
    })?;
    fsx::create_dir(target)?;
    for (name, text) in files {
        fsx::write(&target.join(name), text)?;
    }
    Ok(())
}

/// Makes a package `main` one that can be imported and has a function `Main`. What its files do when they are initialised
/// they do at its beginning, for they would do it in the other programs of the file, too.
fn importable(files: BTreeMap<String, String>) -> std::result::Result<BTreeMap<String, String>, String> {
    let mut prepared = Vec::new();
    let mut changed = BTreeMap::new();
    for (name, text) in files {
        let mut lines = Vec::new();
        for line in text.lines() {
            lines.push(if line == "package main" {
                "package program".to_owned()
            } else if let Some(rest) = line.strip_prefix("func init() {") {
                prepared.push(format!("prepare{}", prepared.len()));
                format!("func prepare{}() {{{rest}", prepared.len() - 1)
            } else {
                line.to_owned()
            });
        }
        changed.insert(name, lines);
    }
    let first = prepared.iter().map(|name| format!(" {name}();")).collect::<Vec<_>>().concat();
    let mut mains = 0;
    for line in changed.values_mut().flatten() {
        if let Some(rest) = line.strip_prefix("func main() {") {
            *line = format!("func Main() {{{first}{rest}");
            mains += 1;
        }
    }
    if mains != 1 {
        return Err(format!("it has {mains} functions main where one was expected"));
    }
    Ok(changed.into_iter().map(|(name, lines)| (name, lines.join("\n") + "\n")).collect())
}

/// The file that starts one of several programs; `packages` are their packages by their names.
fn main_file(packages: &BTreeMap<&str, String>) -> String {
    let numbered = || packages.iter().enumerate();
    let lines = |lines: Vec<String>| lines.concat();
    let imports = lines(numbered().map(|(number, (_, package))| format!("\tp{number} {package:?}\n")).collect());
    let programs = lines(numbered().map(|(number, (name, _))| format!("\t{name:?}: p{number}.Main,\n")).collect());
    format!(
        r#"// Several programs in one file. Which of them it is, the name says by which the file was started.
package main

import (
	"fmt"
	"os"
	"path/filepath"

{imports})

var programs = map[string]func(){{
{programs}}}

func main() {{
	// Not the first argument: a container may start it by a link of any name, which leads to one of its own.
	file, err := os.Executable()
	if err != nil {{
		fmt.Fprintln(os.Stderr, "cannot tell by which name this program was started:", err)
		os.Exit(2)
	}}
	run, found := programs[filepath.Base(file)]
	if !found {{
		fmt.Fprintf(os.Stderr, "%s is none of the programs in this file\n", filepath.Base(file))
		os.Exit(2)
	}}
	run()
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files<const N: usize>(files: [(&str, &str); N]) -> BTreeMap<String, String> {
        files.map(|(name, text)| (name.to_owned(), text.to_owned())).into()
    }

    #[test]
    fn a_program_becomes_a_package() {
        let given = files([
            ("main.go", "// Comment\npackage main\n\nfunc init() {\n\tx()\n}\n\nfunc main() {\n\trun()\n}\n"),
            ("more.go", "package main\n\nfunc init() { y() }\n"),
        ]);
        let expected = files([
            (
                "main.go",
                "// Comment\npackage program\n\nfunc prepare0() {\n\tx()\n}\n\nfunc Main() { prepare0(); prepare1();\n\trun()\n}\n",
            ),
            ("more.go", "package program\n\nfunc prepare1() { y() }\n"),
        ]);
        assert_eq!(importable(given).unwrap(), expected);
        let none = importable(files([("main.go", "package main\n")])).unwrap_err();
        assert_eq!(none, "it has 0 functions main where one was expected");
    }

    #[test]
    fn a_stand_in_has_links_beside_the_programs() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("source"), folder.path().join("target"));
        for (path, text) in [
            ("go.mod", "module m\n"),
            ("cmd/a/main.go", "package main\n\nfunc main() {\n}\n"),
            ("cmd/a/main_test.go", "package main\n"),
            ("cmd/ab/main.go", "package main\n"),
            ("internal/x.go", "package internal\n"),
        ] {
            fsx::create_dir(source.join(path).parent().unwrap()).unwrap();
            fsx::write(&source.join(path), text).unwrap();
        }
        shadow(&source, &target, &["cmd/a"].into()).unwrap();
        assert!(fsx::read_text(&target.join("cmd/a/main.go")).unwrap().contains("func Main()"));
        assert_eq!(fsx::list(&target.join("cmd/a")).unwrap(), ["main.go"]);
        for linked in ["go.mod", "internal", "cmd/ab"] {
            assert_eq!(fsx::link(&target.join(linked)).unwrap(), source.join(linked));
        }
    }

    #[test]
    fn the_first_file_starts_programs_by_their_names() {
        let packages = BTreeMap::from([("one", "example.org/one".to_owned()), ("two", "example.org/m/two".to_owned())]);
        let text = main_file(&packages);
        assert!(text.contains("\tp0 \"example.org/one\"\n\tp1 \"example.org/m/two\"\n"), "{text}");
        assert!(text.contains("\t\"one\": p0.Main,\n\t\"two\": p1.Main,\n"), "{text}");
    }
}
