{{/* A duration of one unit on another scale of time: a list of it, the factor, and the least milliseconds. */}}
{{- define "metastore.scaled" -}}
{{- $duration := index . 0 -}}
{{- $by := index . 1 | float64 -}}
{{- if eq $by 1.0 -}}
{{- $duration -}}
{{- else -}}
{{- $unit := regexFind "[a-z]+$" $duration -}}
{{- $ms := get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000) $unit -}}
{{- $scaled := mulf (trimSuffix $unit $duration | float64) ($ms | float64) $by -}}
{{- printf "%dms" (max (index . 2) (round $scaled 0 | int64)) -}}
{{- end -}}
{{- end -}}

{{/* A query whose ranges, as in [5m] and [15m:1m], are on another scale of time: a list of it and the factor. */}}
{{- define "metastore.windows" -}}
{{- $query := index . 0 -}}
{{- $by := index . 1 -}}
{{- range regexFindAll "\\[[0-9a-z:]+\\]" $query -1 | uniq -}}
{{- $parts := list -}}
{{- range splitList ":" (trimAll "[]" .) -}}
{{- $parts = append $parts (include "metastore.scaled" (list . $by 1000)) -}}
{{- end -}}
{{- $query = replace . (printf "[%s]" (join ":" $parts)) $query -}}
{{- end -}}
{{- $query -}}
{{- end -}}

{{/* A duration such as 1m30s in milliseconds. */}}
{{- define "metastore.milliseconds" -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+[a-z]+" . -1 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $ms := get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) $unit -}}
{{- $sum = add $sum (mul (trimSuffix $unit . | int64) $ms) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* Refuses what Prometheus' operator would not pass on: a scrape longer than the time between two. A list of the values
and where they are. */}}
{{- define "metastore.scrapes" -}}
{{- $monitor := index . 0 -}}
{{- if and $monitor.interval $monitor.scrapeTimeout -}}
{{- if gt (include "metastore.milliseconds" $monitor.scrapeTimeout | int64) (include "metastore.milliseconds" $monitor.interval | int64) -}}
{{- fail (printf "%s.scrapeTimeout: %s is longer than the interval of %s" (index . 1) $monitor.scrapeTimeout $monitor.interval) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where the pages of the runbook are, in the files this chart is made of. */}}
{{- define "metastore.runbooks" -}}docs/operating/runbooks/{{- end -}}
