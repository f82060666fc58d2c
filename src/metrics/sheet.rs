//! Metrics whose rows are set as a whole by who knows them, such as one a plan of the configuration. A row that is not set any
//! more ends.

use parking_lot::Mutex;

use super::text;

/// One metric of every row.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// As scraped.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// `gauge` or `counter`.
    pub kind: &'static str,
    /// A label beside the row's, with its value; families of one name follow each other and differ in it.
    pub label: Option<(&'static str, &'static str)>,
}

/// What is shown of one thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its labels, with their values.
    pub labels: Vec<(&'static str, String)>,
    /// The values of the families, in their order.
    pub values: Vec<f64>,
}

/// A sheet.
#[derive(Debug)]
pub struct Sheet {
    families: &'static [Family],
    rows: Mutex<Vec<Row>>,
}

impl Sheet {
    /// One without rows.
    pub fn new(families: &'static [Family]) -> Self {
        Self { families, rows: Mutex::default() }
    }

    /// These are the rows now.
    pub fn set(&self, rows: Vec<Row>) {
        *self.rows.lock() = rows;
    }

    pub(super) fn render(&self, out: &mut String) {
        let rows = self.rows.lock();
        let mut last = "";
        for (at, family) in self.families.iter().enumerate() {
            if last != family.name {
                text::head(out, family.name, family.help, family.kind);
                last = family.name;
            }
            for row in rows.iter() {
                let mut labels: Vec<(&str, &str)> =
                    row.labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
                labels.extend(family.label);
                let value = row.values.get(at).copied().unwrap_or_default();
                text::line(out, family.name, &text::labels(&labels), &value.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_that_were_set_last() {
        const FAMILIES: [Family; 3] = [
            Family { name: "a_day", help: "A.", kind: "gauge", label: None },
            Family { name: "a_paused", help: "B.", kind: "gauge", label: Some(("by", "itself")) },
            Family { name: "a_paused", help: "B.", kind: "gauge", label: Some(("by", "operator")) },
        ];
        let sheet = Sheet::new(&FAMILIES);
        let row = |source: &str| Row { labels: vec![("source", source.to_owned())], values: vec![3.0, 0.5, 0.0] };
        let render = || {
            let mut out = String::new();
            sheet.render(&mut out);
            out
        };
        sheet.set(vec![row("a"), row("b\"c")]);
        sheet.set(vec![row("b\"c")]);

        assert_eq!(
            render(),
            "# HELP a_day A.\n# TYPE a_day gauge\na_day{source=\"b\\\"c\"} 3\n# HELP a_paused B.\n# TYPE a_paused gauge\n\
             a_paused{source=\"b\\\"c\",by=\"itself\"} 0.5\na_paused{source=\"b\\\"c\",by=\"operator\"} 0\n"
        );
        sheet.set(Vec::new());
        assert!(!render().contains("source"));
    }
}
