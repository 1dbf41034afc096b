{{/* Label matchers of a service's series: what the PodMonitor gives them, or sight.selectors. */}}
{{- define "tailorbird.seriesOf" -}}
{{- get .root.Values.sight.selectors .name | default (printf "job=%q" (printf "%s/%s" .root.Release.Namespace (include "tailorbird.partName" .))) -}}
{{- end -}}

{{/* Those of the trainer's pods that answer calls, which one PodMonitor scrapes with the others. */}}
{{- define "tailorbird.callsSeries" -}}
{{- include "tailorbird.seriesOf" (dict "root" . "name" "trainer") -}}
{{- if and .Values.trainer.split.enabled (not .Values.sight.selectors.trainer) -}}
,pod=~"{{ include "tailorbird.fullname" . }}-trainer-api-.+"
{{- end -}}
{{- end -}}

{{/* The claims that must not fill up, as patterns: no base's, which is full from its first day, and no
cache, which makes room itself. */}}
{{- define "tailorbird.written" -}}
{{- $trainer := dict "root" . "name" "trainer" "values" .Values.trainer -}}
{{- $claims := list -}}
{{- if not .Values.trainer.split.enabled -}}
{{- $claims = append $claims (.Values.trainer.storage.existingClaim | default (include "tailorbird.partName" $trainer) | regexQuoteMeta) -}}
{{- end -}}
{{- if include "tailorbird.fileStore" . -}}
{{- $claims = append $claims (include "tailorbird.storeClaim" . | regexQuoteMeta) -}}
{{- end -}}
{{- toYaml $claims -}}
{{- end -}}

{{/* files/rules.yaml with its @names@ filled in, less the alerts that are left out. */}}
{{- define "tailorbird.rules" -}}
{{- $rules := .Values.sight.rules -}}
{{- $names := mergeOverwrite (deepCopy $rules.thresholds) (dict
  "serving" (include "tailorbird.seriesOf" (dict "root" . "name" "serving"))
  "trainer" (include "tailorbird.seriesOf" (dict "root" . "name" "trainer"))
  "calls" (include "tailorbird.callsSeries" .)
  "volumes" (printf "namespace=%q,persistentvolumeclaim=~%q" .Release.Namespace (include "tailorbird.written" . | fromYamlArray | join "|"))
  "runbook" $rules.runbookUrl
) -}}
{{- $text := .Files.Get "files/rules.yaml" -}}
{{- range $name, $value := $names -}}
{{- $text = replace (printf "@%s@" $name) (toString $value) $text -}}
{{- end -}}
{{- $disabled := $rules.disabled -}}
{{- if and .Values.scaling.enabled (not (kindIs "invalid" .Values.scaling.idleReplicas)) -}}
{{- $disabled = append $disabled "TailorbirdServingAbsent" -}}
{{- end -}}
{{- if and (include "tailorbird.workersScale" .) (eq (int .Values.trainer.split.worker.scaling.minReplicas) 0) -}}
{{- $disabled = append $disabled "TailorbirdNoWorkers" -}}
{{- end -}}
{{- if not (include "tailorbird.written" . | fromYamlArray) -}}
{{- $disabled = append $disabled "TailorbirdVolumeFull" -}}
{{- end -}}
{{- $known := list -}}
{{- $groups := list -}}
{{- $read := fromYaml $text -}}
{{- with $read.Error -}}
{{- fail (printf "sight.rules: what runbookUrl, thresholds and sight.selectors make of the rules is no YAML: %s" .) -}}
{{- end -}}
{{- range $group := $read.groups -}}
{{- $kept := list -}}
{{- range $rule := $group.rules -}}
{{- $known = append $known $rule.alert -}}
{{- if not (has $rule.alert $disabled) -}}
{{- $kept = append $kept (set $rule "labels" (merge $rule.labels $rules.alertLabels)) -}}
{{- end -}}
{{- end -}}
{{- if $kept -}}
{{- $groups = append $groups (set $group "rules" $kept) -}}
{{- end -}}
{{- end -}}
{{- range $rules.disabled -}}
{{- if not (has . $known) -}}
{{- fail (printf "sight.rules.disabled: %s is no alert; there are %s" . (join ", " $known)) -}}
{{- end -}}
{{- end -}}
{{- toYaml (dict "groups" $groups) -}}
{{- end -}}

{{- define "tailorbird.problems.sight" -}}
{{- $problems := list -}}
{{- with .Values.sight.podMonitor -}}
{{- if gt (include "tailorbird.milliseconds" .scrapeTimeout | int64) (include "tailorbird.milliseconds" .interval | int64) -}}
{{- $problems = append $problems (printf "sight.podMonitor.scrapeTimeout: is %s, longer than sight.podMonitor.interval %s; Prometheus takes no such monitor" .scrapeTimeout .interval) -}}
{{- end -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}

{{/* A duration of Prometheus', of one unit. */}}
{{- define "tailorbird.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get $units (regexFind "[a-z]+$" .)) -}}
{{- end -}}
