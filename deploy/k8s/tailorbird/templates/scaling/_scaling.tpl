{{- define "tailorbird.problems.scaling" -}}
{{- $problems := list -}}
{{- $scaling := .Values.scaling -}}
{{- if or $scaling.enabled (include "tailorbird.workersScale" .) -}}
{{- if not $scaling.prometheus.serverAddress -}}
{{- $problems = append $problems "scaling.prometheus.serverAddress: is empty; KEDA asks a Prometheus there how much there is to do" -}}
{{- end -}}
{{- if and $scaling.prometheus.authModes (not $scaling.prometheus.authentication.name) -}}
{{- $problems = append $problems (printf "scaling.prometheus.authentication.name: is empty, and authModes %s needs a %s" $scaling.prometheus.authModes $scaling.prometheus.authentication.kind) -}}
{{- end -}}
{{- end -}}
{{- if $scaling.enabled -}}
{{- if gt ($scaling.minReplicas | int) ($scaling.maxReplicas | int) -}}
{{- $problems = append $problems (printf "scaling.minReplicas: %v is more than scaling.maxReplicas %v" $scaling.minReplicas $scaling.maxReplicas) -}}
{{- end -}}
{{- if and (gt ($scaling.maxReplicas | int) 1) (include "tailorbird.fileStore" .) -}}
{{- $problems = append $problems (printf "scaling.maxReplicas: is %v, and replicas share no file:// store; set objectStore.url to s3://, gs:// or az://" $scaling.maxReplicas) -}}
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

{{/* How many jobs there are to do. The pods that answer calls tell it, also while no other runs; each tells
of all jobs, hence the largest of what they say. */}}
{{- define "tailorbird.jobsTrigger" -}}
{{- $states := "QUEUED|PREPARING|RUNNING|EVALUATING|PUBLISHING" -}}
name: jobs
query: {{ printf "sum(max by (state) (tailorbird_trainer_jobs{%s,state=~%q}))" (include "tailorbird.callsSeries" .) $states | quote }}
target: {{ include "tailorbird.jobsPerReplica" . }}
{{- end -}}

{{/* (dict "root" $ "name" COMPONENT "scaling" VALUES "triggers" LIST of {name, query, target}) */}}
{{- define "tailorbird.scaledObject" -}}
{{- $prometheus := .root.Values.scaling.prometheus -}}
{{- $triggers := .triggers -}}
{{- $part := dict "root" .root "name" .name -}}
{{- $name := include "tailorbird.partName" $part -}}
{{- with .scaling -}}
{{- $idle := not (kindIs "invalid" .idleReplicas) -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  {{- include "tailorbird.metadata" (dict "part" $part "name" $name "annotations" .annotations) | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ $name | quote }}
  minReplicaCount: {{ .minReplicas }}
  maxReplicaCount: {{ .maxReplicas }}
  {{- if $idle }}
  idleReplicaCount: {{ .idleReplicas }}
  {{- end }}
  pollingInterval: {{ .pollingSeconds }}
  cooldownPeriod: {{ .cooldownSeconds }}
  # Blind, it keeps what runs, and at least so many.
  fallback:
    failureThreshold: {{ .fallback.failures }}
    replicas: {{ .fallback.replicas | default .minReplicas }}
    behavior: currentReplicasIfHigher
  {{- with .behavior }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        {{- toYaml . | nindent 8 }}
  {{- end }}
  triggers:
    {{- range $trigger := $triggers }}
    - type: prometheus
      name: {{ $trigger.name }}
      # An average for each replica, which fallback needs too.
      metricType: AverageValue
      metadata:
        serverAddress: {{ $prometheus.serverAddress | quote }}
        query: {{ $trigger.query | quote }}
        threshold: {{ $trigger.target | toString | quote }}
        # No series is no answer, not 0: unless no replica is what there should be.
        ignoreNullValues: {{ $idle | quote }}
        {{- with $prometheus.authModes }}
        authModes: {{ . | quote }}
        {{- end }}
      {{- with $prometheus.authentication }}
      {{- if .name }}
      authenticationRef:
        kind: {{ .kind }}
        name: {{ .name }}
      {{- end }}
      {{- end }}
    {{- end }}
{{- end -}}
{{- end -}}
