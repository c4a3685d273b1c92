//! What Go links into one file: a program, or several that have much in common.

use std::collections::BTreeSet;

use super::parts::Program;

/// Where the files of several programs in one are generated, beside a module's go.mod.
pub(super) const FOLDER: &str = "binaries";

/// A file that Go links, and the programs that are in it.
#[derive(Clone, Debug)]
pub(super) struct Target<'a> {
    /// The folder with the go.mod that it is built from.
    pub module: &'a str,
    /// What several programs are linked into; none for a program by itself.
    pub binary: Option<&'a str>,
    /// The programs.
    pub members: Vec<&'a Program>,
}

impl<'a> Target<'a> {
    /// The files that some programs are linked into; a shared one has all the programs that it is ever linked from.
    pub(super) fn of(programs: &[&'a Program], all: &[&'a Program]) -> Vec<Self> {
        let mut targets: Vec<Self> = Vec::new();
        for program in programs {
            let (module, binary) = (program.module.as_str(), program.binary.as_deref());
            if binary.is_none() {
                targets.push(Self { module, binary, members: vec![program] });
            } else if !targets.iter().any(|target| target.module == module && target.binary == binary) {
                let is_member = |other: &&&Program| other.module == module && other.binary.as_deref() == binary;
                targets.push(Self { module, binary, members: all.iter().filter(is_member).copied().collect() });
            }
        }
        targets
    }

    /// The Go package; `module` is the module's path.
    pub(super) fn package(&self, module: &str) -> String {
        let own = || self.members.iter().find_map(|program| program.package.clone()).unwrap_or_default();
        self.binary.map_or_else(own, |binary| format!("{module}/{FOLDER}/{binary}"))
    }

    /// Its programs' names.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.members.iter().map(|program| program.name.clone()).collect()
    }
}

/// The path in a go.mod.
pub(super) fn module_path(text: &str) -> String {
    text.lines().find_map(|line| line.strip_prefix("module ")).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::parts::{OWN_PACKAGES, Part, Parts};
    use super::*;

    #[test]
    fn what_is_linked_together_belongs_together() {
        let all = Parts::own().unwrap().all;
        let programs: Vec<&Program> = all.iter().filter_map(Part::go_program).collect();
        for target in Target::of(&programs, &programs).iter().filter(|target| target.binary.is_some()) {
            assert!(target.members.len() > 1, "{target:?}");
            let first = target.members[0];
            for program in &target.members {
                assert_eq!(program.with, first.with, "{}: a bundle has all of a binary, or none", program.name);
                let package = program.package.as_deref().unwrap();
                let from = program.from.as_deref().unwrap();
                assert!(package.starts_with(OWN_PACKAGES) || package.starts_with(from), "{package} is not of {from}");
            }
        }
    }

    #[test]
    fn one_stale_program_takes_the_whole_file() {
        let all = Parts::own().unwrap().all;
        let programs: Vec<&Program> = all.iter().filter_map(Part::go_program).collect();
        let shared = programs.iter().find(|program| program.binary.is_some()).unwrap();
        let targets = Target::of(&[shared], &programs);
        assert_eq!(targets.len(), 1);
        assert!(targets[0].names().len() > 1 && targets[0].names().contains(&shared.name));
        let package = targets[0].package("example.org/m");
        assert_eq!(package, format!("example.org/m/binaries/{}", shared.binary.as_deref().unwrap()));
    }
}
