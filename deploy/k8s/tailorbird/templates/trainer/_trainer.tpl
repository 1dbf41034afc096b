{{/*
The trainer's pods, as a YAML list of {name, values}: one that does all or, with trainer.split, those that
answer calls and those that train. What trainer.split has for a part takes the place of the trainer's own
key, whole.
*/}}
{{- define "tailorbird.trainerParts" -}}
{{- $trainer := .Values.trainer -}}
{{- $parts := list -}}
{{- if $trainer.split.enabled -}}
{{- range $name := list "api" "worker" -}}
{{- $values := deepCopy $trainer -}}
{{- range $key, $value := get $trainer.split $name -}}
{{- $_ := set $values $key $value -}}
{{- end -}}
{{- if eq $name "api" -}}
{{- /* It tells callers what workers train on. */ -}}
{{- if and (ne $trainer.gpu.driver "none") (not $trainer.config.device) -}}
{{- $_ := set $values.config "device" "cuda" -}}
{{- end -}}
{{- $_ := set $values.gpu "driver" "none" -}}
{{- $_ := set $values "queue" (dict "name" "" "priorityClass" "") -}}
{{- end -}}
{{- $parts = append $parts (dict "name" (printf "trainer-%s" $name) "values" $values) -}}
{{- end -}}
{{- else -}}
{{- $parts = append $parts (dict "name" "trainer" "values" $trainer) -}}
{{- end -}}
{{- toYaml $parts -}}
{{- end -}}

{{/* The component of the pods that answer the trainer's calls. */}}
{{- define "tailorbird.trainerCalls" -}}
{{- ternary "trainer-api" "trainer" .Values.trainer.split.enabled -}}
{{- end -}}

{{/* "trainer" or "serving": the key of values.yaml that a part's pod belongs to. */}}
{{- define "tailorbird.serviceOf" -}}
{{- first (splitList "-" .name) -}}
{{- end -}}

{{/* Where values.yaml has a part's key: (dict "part" $part "key" "shutdown") */}}
{{- define "tailorbird.keyOf" -}}
{{- $own := splitList "-" .part.name -}}
{{- if and (gt (len $own) 1) (hasKey (get .part.root.Values.trainer.split (last $own)) .key) -}}
{{- printf "trainer.split.%s.%s" (last $own) .key -}}
{{- else -}}
{{- printf "%s.%s" (first $own) .key -}}
{{- end -}}
{{- end -}}

{{- define "tailorbird.problems.split" -}}
{{- $problems := list -}}
{{- $split := .Values.trainer.split -}}
{{- if $split.enabled -}}
{{- if not .Values.trainer.database.existingSecret -}}
{{- $problems = append $problems "trainer.database.existingSecret: is empty, and trainer.split.enabled has several trainers, which share a queue in a PostgreSQL: name the Secret with its URL" -}}
{{- end -}}
{{- if include "tailorbird.fileStore" . -}}
{{- $problems = append $problems "trainer.split.enabled: several trainers share no file:// store; set objectStore.url to s3://, gs:// or az://" -}}
{{- end -}}
{{- end -}}
{{- $scaling := $split.worker.scaling -}}
{{- if and $split.enabled $scaling.enabled -}}
{{- if gt ($scaling.minReplicas | int) ($scaling.maxReplicas | int) -}}
{{- $problems = append $problems (printf "trainer.split.worker.scaling.minReplicas: %v is more than trainer.split.worker.scaling.maxReplicas %v" $scaling.minReplicas $scaling.maxReplicas) -}}
{{- end -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}

{{/* What scales the workers' pods; nothing where nobody does. */}}
{{- define "tailorbird.workersScale" -}}
{{- with .Values.trainer.split -}}
{{- if and .enabled .worker.scaling.enabled -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* Jobs for each pod of workers: what its workers train at a time. */}}
{{- define "tailorbird.jobsPerReplica" -}}
{{- $config := .Values.trainer.config -}}
{{- .Values.trainer.split.worker.scaling.jobsPerReplica | default (mul ($config.workers | default 1) ($config.jobsPerWorker | default 8)) -}}
{{- end -}}
