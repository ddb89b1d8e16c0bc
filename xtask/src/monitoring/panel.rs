//! Panels and dashboards of Grafana, as the JSON it imports: what all have in common is said once, so
//! that a board is a list of questions.

use serde_json::{Map, Value, json};

use super::expr::{DASHBOARD, spell};
use super::rules::RUNBOOKS;

/// Columns of a dashboard.
const WIDTH: u64 = 24;
/// The version of the format, one that Grafana 10 and later read as it is.
const SCHEMA: u64 = 39;

/// One query.
pub(super) struct Target {
    query: String,
    legend: String,
    name: String,
}

/// A query and what its lines are called.
pub(super) fn ask(query: &str, legend: &str) -> Target {
    Target { query: query.to_owned(), legend: legend.to_owned(), name: String::new() }
}

/// A query of a table's column: its name.
pub(super) fn column(name: &str, query: &str) -> Target {
    Target { query: query.to_owned(), legend: String::new(), name: name.to_owned() }
}

/// A share of samples, of a histogram, by labels.
pub(super) fn quantile(share: &str, by: &str, metric: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    let by = if by.is_empty() { String::new() } else { format!("{by}, ") };
    format!(
        "histogram_quantile({share}, sum by ({by}le) (rate({metric}_bucket{{{more}{comma}@S}}[@W])))"
    )
}

/// What a panel looks like.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Stat,
    Lines,
    Heat,
    Table,
    Timeline,
    AlertList,
    Row,
}

/// One panel.
pub(super) struct Panel {
    kind: Kind,
    title: String,
    about: String,
    unit: String,
    page: String,
    targets: Vec<Target>,
    size: (u64, u64),
    field: Map<String, Value>,
    custom: Map<String, Value>,
    overrides: Vec<Value>,
    transformations: Vec<Value>,
}

fn panel(kind: Kind, title: &str, about: &str, unit: &str, page: &str, size: (u64, u64)) -> Panel {
    Panel {
        kind,
        title: title.to_owned(),
        about: about.to_owned(),
        unit: unit.to_owned(),
        page: page.to_owned(),
        targets: Vec::new(),
        size,
        field: Map::new(),
        custom: Map::new(),
        overrides: Vec::new(),
        transformations: Vec::new(),
    }
}

/// A heading above the panels that follow.
pub(super) fn row(title: &str) -> Panel {
    panel(Kind::Row, title, "", "", "", (WIDTH, 1))
}

/// A number, as of now. `page` is the page of the runbook.
pub(super) fn stat(
    title: &str,
    about: &str,
    unit: &str,
    page: &str,
    targets: Vec<Target>,
) -> Panel {
    Panel { targets, ..panel(Kind::Stat, title, about, unit, page, (4, 4)) }
}

/// Lines over time.
pub(super) fn lines(
    title: &str,
    about: &str,
    unit: &str,
    page: &str,
    targets: Vec<Target>,
) -> Panel {
    Panel { targets, ..panel(Kind::Lines, title, about, unit, page, (8, 8)) }
}

/// How samples of a histogram are spread, over time; `unit` is that of the samples.
pub(super) fn heat(title: &str, about: &str, unit: &str, page: &str, query: &str) -> Panel {
    Panel {
        targets: vec![ask(query, "{{le}}")],
        ..panel(Kind::Heat, title, about, unit, page, (8, 8))
    }
}

/// States over time, a row each.
pub(super) fn timeline(title: &str, about: &str, page: &str, targets: Vec<Target>) -> Panel {
    Panel { targets, ..panel(Kind::Timeline, title, about, "short", page, (24, 6)) }
}

/// A table.
pub(super) fn table(
    title: &str,
    about: &str,
    unit: &str,
    page: &str,
    targets: Vec<Target>,
) -> Panel {
    Panel { targets, ..panel(Kind::Table, title, about, unit, page, (24, 8)) }
}

/// Alerts that fire or are about to, each with a link to its page.
pub(super) fn alert_list(title: &str, about: &str) -> Panel {
    panel(Kind::AlertList, title, about, "", "README", (8, 8))
}

impl Panel {
    /// Width in columns of 24, height in lines.
    pub(super) fn size(mut self, width: u64, height: u64) -> Self {
        self.size = (width, height);
        self
    }

    /// Colours from values on; the first is for what lies below.
    pub(super) fn steps(mut self, first: &str, steps: &[(f64, &str)]) -> Self {
        self.field.insert("thresholds".to_owned(), thresholds(first, steps));
        if self.kind == Kind::Lines {
            self.custom.insert("thresholdsStyle".to_owned(), json!({ "mode": "dashed" }));
        }
        self
    }

    /// Words and colours for values.
    pub(super) fn words(mut self, words: &[(&str, &str, &str)]) -> Self {
        self.field.insert("mappings".to_owned(), mappings(words));
        self
    }

    /// One above the other.
    pub(super) fn stacked(mut self) -> Self {
        self.custom.insert("stacking".to_owned(), json!({ "mode": "normal", "group": "A" }));
        self.custom.insert("fillOpacity".to_owned(), json!(30));
        self
    }

    /// Each step ten times the one before.
    pub(super) fn logarithmic(mut self) -> Self {
        self.custom.insert("scaleDistribution".to_owned(), json!({ "type": "log", "log": 10 }));
        self
    }

    /// Columns of a table side by side: the names of its queries, with unit and colours.
    pub(super) fn columns(mut self, columns: &[Column]) -> Self {
        let mut names = Map::new();
        let mut order = Map::new();
        for (at, label) in ["namespace", "cluster", "pod"].iter().enumerate() {
            order.insert((*label).to_owned(), json!(at));
        }
        for (at, column) in columns.iter().enumerate() {
            names.insert(format!("Value #{}", column.name), json!(column.title));
            order.insert(format!("Value #{}", column.name), json!(at + 3));
            let mut properties = vec![json!({ "id": "unit", "value": column.unit })];
            if !column.steps.1.is_empty() {
                let steps = thresholds(column.steps.0, column.steps.1);
                properties.push(json!({ "id": "thresholds", "value": steps }));
                let cell = json!({ "type": "color-background", "mode": "basic" });
                properties.push(json!({ "id": "custom.cellOptions", "value": cell }));
            }
            if !column.words.is_empty() {
                properties.push(json!({ "id": "mappings", "value": mappings(column.words) }));
            }
            let matcher = json!({ "id": "byName", "options": column.title });
            self.overrides.push(json!({ "matcher": matcher, "properties": properties }));
        }
        self.transformations = vec![
            json!({ "id": "merge", "options": {} }),
            json!({ "id": "organize", "options": {
                "excludeByName": { "Time": true },
                "indexByName": order,
                "renameByName": names,
            } }),
        ];
        self
    }

    /// A matrix: one row for each value of a label, one column for each of another.
    pub(super) fn matrix(mut self, row: &str, column: &str) -> Self {
        self.custom.insert(
            "cellOptions".to_owned(),
            json!({ "type": "color-background", "mode": "gradient" }),
        );
        self.field.insert("color".to_owned(), json!({ "mode": "continuous-GrYlRd" }));
        self.transformations = vec![json!({ "id": "groupingToMatrix", "options": {
            "rowField": row, "columnField": column, "valueField": "Value", "emptyValue": "null",
        } })];
        self
    }

    fn json(self, id: u64, (x, y): (u64, u64)) -> Value {
        let (w, h) = self.size;
        let place = json!({ "x": x, "y": y, "w": w, "h": h });
        if self.kind == Kind::Row {
            return json!({
                "id": id, "type": "row", "title": self.title, "gridPos": place, "collapsed": false,
                "panels": [],
            });
        }
        let mut custom = self.custom;
        let (kind, options) = match self.kind {
            Kind::Stat => ("stat", stat_options()),
            Kind::Lines => {
                for (key, value) in [
                    ("drawStyle", json!("line")),
                    ("lineWidth", json!(1)),
                    ("fillOpacity", json!(5)),
                    ("showPoints", json!("never")),
                    ("spanNulls", json!(false)),
                ] {
                    custom.entry(key).or_insert(value);
                }
                ("timeseries", lines_options())
            }
            Kind::Heat => ("heatmap", heat_options(&self.unit)),
            Kind::Table => {
                let options =
                    json!({ "showHeader": true, "cellHeight": "sm", "footer": { "show": false } });
                ("table", options)
            }
            Kind::Timeline => {
                custom.insert("fillOpacity".to_owned(), json!(80));
                ("state-timeline", timeline_options())
            }
            Kind::AlertList => ("alertlist", alert_options()),
            Kind::Row => unreachable!("a row has no options"),
        };
        let mut defaults = self.field;
        if self.kind != Kind::AlertList {
            defaults.insert("unit".to_owned(), json!(self.unit));
        }
        if !custom.is_empty() {
            defaults.insert("custom".to_owned(), Value::Object(custom));
        }
        let mut panel = json!({
            "id": id,
            "type": kind,
            "title": self.title,
            "description": self.about,
            "gridPos": place,
            "links": [{
                "title": "What to do", "url": format!("${{runbooks}}{}.md", self.page),
                "targetBlank": true,
            }],
            "options": options,
        });
        if self.kind == Kind::AlertList {
            return panel;
        }
        let is_now = matches!(self.kind, Kind::Stat | Kind::Table);
        let is_table = self.kind == Kind::Table;
        let kind = self.kind;
        let targets = self.targets.into_iter().enumerate().map(|(at, target)| {
            let letter = char::from(b'A' + u8::try_from(at).expect("few queries"));
            let name = if target.name.is_empty() { letter.to_string() } else { target.name };
            let format = match kind {
                Kind::Table => "table",
                Kind::Heat => "heatmap",
                _ => "time_series",
            };
            json!({
                "refId": name,
                "datasource": datasource(),
                "editorMode": "code",
                "expr": spell(&target.query, DASHBOARD),
                "legendFormat": if is_table { "__auto".to_owned() } else { target.legend },
                "format": format,
                "instant": is_now,
                "range": !is_now,
            })
        });
        panel["targets"] = Value::Array(targets.collect());
        panel["datasource"] = datasource();
        panel["fieldConfig"] = json!({ "defaults": defaults, "overrides": self.overrides });
        panel["transformations"] = Value::Array(self.transformations);
        panel
    }
}

/// A column of a table.
pub(super) struct Column {
    /// The name of its query.
    pub(super) name: &'static str,
    /// What stands above it.
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) steps: (&'static str, &'static [(f64, &'static str)]),
    pub(super) words: &'static [(&'static str, &'static str, &'static str)],
}

fn thresholds(first: &str, steps: &[(f64, &str)]) -> Value {
    let mut all = vec![json!({ "color": first, "value": null })];
    all.extend(steps.iter().map(|(from, color)| json!({ "color": color, "value": from })));
    json!({ "mode": "absolute", "steps": all })
}

fn mappings(words: &[(&str, &str, &str)]) -> Value {
    let mut options = Map::new();
    for (at, (value, word, color)) in words.iter().enumerate() {
        let option = json!({ "text": word, "color": color, "index": at });
        options.insert((*value).to_owned(), option);
    }
    json!([{ "type": "value", "options": options }])
}

fn stat_options() -> Value {
    json!({
        "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
        "colorMode": "background", "graphMode": "none", "justifyMode": "auto",
        "orientation": "auto", "textMode": "auto",
    })
}

fn lines_options() -> Value {
    json!({
        "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] },
        "tooltip": { "mode": "multi", "sort": "desc" },
    })
}

fn heat_options(unit: &str) -> Value {
    json!({
        "calculate": false,
        "cellGap": 1,
        "color": { "mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5 },
        "yAxis": { "unit": unit, "axisPlacement": "left" },
        "rowsFrame": { "layout": "auto" },
        "legend": { "show": true },
        "tooltip": { "mode": "single", "yHistogram": false },
    })
}

fn timeline_options() -> Value {
    json!({
        "mergeValues": true, "showValue": "never", "rowHeight": 0.8, "alignValue": "left",
        "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
        "tooltip": { "mode": "single" },
    })
}

fn alert_options() -> Value {
    json!({
        "viewMode": "list", "groupMode": "default", "sortOrder": 3, "maxItems": 30,
        "alertName": "", "dashboardAlerts": false, "folder": "",
        // No source: Grafana takes its name here, and no variable for it.
        "alertInstanceLabelFilter": "{namespace=~\"${namespace:regex}\"}",
        "stateFilter": {
            "firing": true, "pending": true, "error": true, "noData": false, "normal": false,
        },
    })
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// One dashboard.
pub(super) struct Board {
    /// What it is found by, here and in Grafana.
    pub(super) uid: &'static str,
    pub(super) title: &'static str,
    pub(super) about: &'static str,
    /// Metric whose series say which pods there are.
    pub(super) pods_of: &'static str,
    pub(super) panels: Vec<Panel>,
}

impl Board {
    /// The file to import.
    pub(super) fn json(self) -> String {
        let (mut x, mut y, mut height) = (0, 0, 0);
        let mut panels = Vec::new();
        for (at, panel) in self.panels.into_iter().enumerate() {
            let (w, h) = panel.size;
            if x + w > WIDTH {
                (x, y, height) = (0, y + height, 0);
            }
            panels.push(panel.json(at as u64 + 1, (x, y)));
            (x, height) = (x + w, height.max(h));
        }
        let board = json!({
            "id": null,
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": ["metastore"],
            "editable": true,
            "graphTooltip": 1,
            "schemaVersion": SCHEMA,
            "version": 1,
            "refresh": "10s",
            "time": { "from": "now-1h", "to": "now" },
            "timezone": "",
            "links": [{
                "type": "dashboards", "title": "MetaStore", "tags": ["metastore"], "asDropdown": true,
                "includeVars": true, "keepTime": true, "targetBlank": false, "icon": "external link",
            }],
            "annotations": { "list": annotations() },
            "templating": { "list": variables(self.pods_of) },
            "panels": panels,
        });
        let mut text = serde_json::to_string_pretty(&sorted(board)).expect("JSON");
        text.push('\n');
        text
    }
}

fn variables(pods_of: &str) -> Vec<Value> {
    let query = |name: &str, label: &str, query: String| {
        json!({
            "name": name, "label": label, "type": "query", "datasource": datasource(),
            "definition": query, "query": { "query": query, "refId": "StandardVariableQuery" },
            "refresh": 2, "sort": 1, "regex": "", "multi": true, "includeAll": true, "allValue": ".*",
            "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
            "hide": 0, "options": [], "skipUrlSync": false,
        })
    };
    let stores = "metastore_build_info";
    let pods = if pods_of == stores {
        format!("label_values({stores}{{{}}}, pod)", DASHBOARD.clusters)
    } else {
        format!("label_values({pods_of}, pod)")
    };
    vec![
        json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
            "current": {}, "hide": 0, "includeAll": false, "multi": false, "options": [],
            "refresh": 1, "regex": "", "skipUrlSync": false,
        }),
        query("namespace", "Namespace", format!("label_values({stores}, namespace)")),
        query(
            "cluster",
            "Cluster",
            format!("label_values({stores}{{namespace=~\"$namespace\"}}, cluster)"),
        ),
        query("pod", "Pod", pods),
        json!({
            "name": "runbooks", "label": "Where the runbook's pages are", "type": "constant",
            "query": RUNBOOKS, "current": { "text": RUNBOOKS, "value": RUNBOOKS },
            "hide": 2, "options": [], "skipUrlSync": true,
        }),
    ]
}

fn annotations() -> Vec<Value> {
    let own = |name: &str, color: &str, query: &str, text: &str| {
        json!({
            "name": name, "datasource": datasource(), "enable": true, "hide": false,
            "iconColor": color, "expr": spell(query, DASHBOARD), "step": "30s",
            "titleFormat": name, "textFormat": text, "useValueForTime": false,
        })
    };
    vec![
        json!({
            "name": "Annotations & Alerts", "builtIn": 1, "type": "dashboard", "enable": true,
            "hide": true, "iconColor": "rgba(0, 211, 255, 1)",
            "datasource": { "type": "grafana", "uid": "-- Grafana --" },
        }),
        own(
            "Plan of timing",
            "blue",
            "max by (@C) (changes(metastore_tuning_epoch{@K}[1m])) > 0",
            "{{namespace}}/{{cluster}}: another plan is in force",
        ),
        own(
            "Leader",
            "orange",
            "max by (@C) (changes(etcd_server_leader_changes_seen_total{@K}[1m])) > 0",
            "{{namespace}}/{{cluster}}: the leader changed",
        ),
    ]
}

/// With its keys by name: serde_json's own order depends on what else is built with it.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: std::collections::BTreeMap<_, _> = fields.into_iter().collect();
            Value::Object(fields.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
