{{- define "tailorbird.problems.scaling" -}}
{{- $problems := list -}}
{{- $scaling := .Values.scaling -}}
{{- if $scaling.enabled -}}
{{- if gt ($scaling.minReplicas | int) ($scaling.maxReplicas | int) -}}
{{- $problems = append $problems (printf "scaling.minReplicas: %v is more than scaling.maxReplicas %v" $scaling.minReplicas $scaling.maxReplicas) -}}
{{- end -}}
{{- if and (gt ($scaling.maxReplicas | int) 1) (include "tailorbird.fileStore" .) -}}
{{- $problems = append $problems (printf "scaling.maxReplicas: is %v, and replicas share no file:// store; set objectStore.url to s3://, gs:// or az://" $scaling.maxReplicas) -}}
{{- end -}}
{{- if not $scaling.prometheus.serverAddress -}}
{{- $problems = append $problems "scaling.prometheus.serverAddress: is empty; KEDA asks a Prometheus there how much serving has to do" -}}
{{- end -}}
{{- if and $scaling.prometheus.authModes (not $scaling.prometheus.authentication.name) -}}
{{- $problems = append $problems (printf "scaling.prometheus.authentication.name: is empty, and authModes %s needs a %s" $scaling.prometheus.authModes $scaling.prometheus.authentication.kind) -}}
{{- end -}}
{{- if not (include "tailorbird.servingTriggers" . | fromYaml).triggers -}}
{{- $problems = append $problems "scaling.targets: all are null; one at least must tell how many replicas are needed" -}}
{{- end -}}
{{- $query := $scaling.wake.query -}}
{{- if and (not (kindIs "invalid" $scaling.idleReplicas)) (not $query) -}}
{{- $problems = append $problems "scaling.wake.query: is empty; with scaling.idleReplicas 0 no replica is left whose metrics could ask for one: give a query over the gateway's" -}}
{{- end -}}
{{- if regexMatch "vllm:|tailorbird_(serving|trainer|rpc)_" $query -}}
{{- $problems = append $problems "scaling.wake.query: asks for our own metrics, which are gone while no replica runs; give a query over the gateway's" -}}
{{- end -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}

{{/* What serving says of itself, by the target it is held to. */}}
{{- define "tailorbird.servingTriggers" -}}
{{- $targets := .Values.scaling.targets -}}
{{- $series := include "tailorbird.seriesOf" (dict "root" . "name" "serving") -}}
triggers:
  {{- if $targets.waitingRequests }}
  - name: waiting-requests
    query: {{ printf "sum(vllm:num_requests_waiting{%s})" $series | quote }}
    target: {{ $targets.waitingRequests }}
  {{- end }}
  {{- if $targets.runningRequests }}
  - name: running-requests
    query: {{ printf "sum(vllm:num_requests_running{%s})" $series | quote }}
    target: {{ $targets.runningRequests }}
  {{- end }}
  {{- if $targets.slotWaitsPerSecond }}
  - name: slot-waits
    query: {{ printf "sum(rate(tailorbird_serving_slot_waits_total{%s}[2m]))" $series | quote }}
    target: {{ $targets.slotWaitsPerSecond }}
  {{- end }}
{{- end -}}
