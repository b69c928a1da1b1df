//! A table with the medians of a group. Each server has a row and each case has a column.

use std::fmt;

use super::{Case, Group};

/// A table that grows with each case.
#[derive(Debug)]
pub(super) struct Summary {
    group: Group,
    cases: Vec<String>,
    /// Rows in the order of their first case. A figure is `None` if the server was not measured.
    servers: Vec<(String, Vec<Option<f64>>)>,
}

impl Summary {
    /// Creates an empty table.
    pub(super) fn new(group: Group) -> Self {
        Self {
            group,
            cases: Vec::new(),
            servers: Vec::new(),
        }
    }

    /// Adds a column. Servers may be missing.
    pub(super) fn add(
        &mut self,
        case: Case,
        medians: impl Iterator<Item = (impl AsRef<str>, f64)>,
    ) {
        for (server, median) in medians {
            let server = server.as_ref();
            let row = match self.servers.iter().position(|(known, _)| known == server) {
                Some(row) => row,
                None => {
                    self.servers.push((server.to_owned(), Vec::new()));
                    self.servers.len() - 1
                }
            };
            let row = &mut self.servers[row].1;
            row.resize(self.cases.len(), None);
            row.push(Some(median));
        }
        self.cases.push(case.to_string());
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [unit, _] = self.group.unit();
        match self.group {
            Group::Echo(_) => writeln!(f, "CPU ns a {unit}; resident bytes an idle connection:\n")?,
            _ => writeln!(f, "CPU ns a {unit}:\n")?,
        }
        writeln!(f, "| server | {} |", self.cases.join(" | "))?;
        writeln!(f, "|---{}|", "|--:".repeat(self.cases.len()))?;
        for (server, row) in &self.servers {
            write!(f, "| {server} |")?;
            for case in 0..self.cases.len() {
                match row.get(case).copied().flatten() {
                    Some(median) => write!(f, " {median:.0} |")?,
                    None => write!(f, " |")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_be_missing_from_a_case() {
        let group = Case::echo(1, 1, 64).group();
        let mut summary = Summary::new(group);
        summary.add(Case::echo(1, 1, 64), [("one", 1.0)].into_iter());
        summary.add(
            Case::echo(2, 1, 64),
            [("two", 2.0), ("one", 3.0)].into_iter(),
        );
        summary.add(Case::echo(3, 1, 64), [("two", 4.0)].into_iter());
        let table: Vec<String> = summary.to_string().lines().map(str::to_owned).collect();
        assert_eq!(
            table[2..],
            [
                "| server | 1x1x64 | 2x1x64 | 3x1x64 |",
                "|---|--:|--:|--:|",
                "| one | 1 | 3 | |",
                "| two | | 2 | 4 |",
            ]
        );
    }
}
