{{/* Parts of a pod. "restricted" of the Pod Security Standards holds for every container. */}}

{{- define "tailorbird.podSecurityContext" -}}
runAsNonRoot: true
{{- range $field, $id := .Values.podSecurity }}
{{- if kindIs "slice" $id }}
{{- with $id }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- else }}
{{ $field }}: {{ int64 $id }}
{{- end }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "tailorbird.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "tailorbird.podMetadata" -}}
labels:
  {{- toYaml (mergeOverwrite (include "tailorbird.labels" . | fromYaml) (deepCopy .values.podLabels) (include "tailorbird.selectorLabels" . | fromYaml)) | nindent 2 }}
annotations:
  {{- $own := dict "checksum/config" (include "tailorbird.environment" . | sha256sum) }}
  {{- toYaml (mergeOverwrite (deepCopy .root.Values.commonAnnotations) .values.podAnnotations $own) | nindent 2 }}
{{- end -}}

{{- define "tailorbird.podSpec" -}}
serviceAccountName: {{ include "tailorbird.serviceAccountName" . | quote }}
automountServiceAccountToken: false
# A Service named tailorbird would set TAILORBIRD_PORT.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "tailorbird.gracePeriod" . }}
securityContext:
  {{- include "tailorbird.podSecurityContext" .root | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- /* Old and new pods of a roll-out spread apart from each other. */}}
  {{- $own := dict "labelSelector" (dict "matchLabels" (include "tailorbird.selectorLabels" $ | fromYaml)) "matchLabelKeys" (list "pod-template-hash") }}
  {{- range . }}
  - {{ toYaml (ternary . (mergeOverwrite (deepCopy $own) .) (hasKey . "labelSelector")) | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- if eq .values.gpu.driver "dra" }}
resourceClaims:
  - name: gpu
    resourceClaimTemplateName: {{ include "tailorbird.claimTemplateName" . }}
{{- end }}
{{- if .root.Values.baseModel.digest }}
initContainers:
  - {{ include "tailorbird.digestContainer" . | nindent 4 | trim }}
{{- end }}
containers:
  - {{ include "tailorbird.serviceContainer" . | nindent 4 | trim }}
volumes:
  {{- include "tailorbird.volumes" . | trim | nindent 2 }}
{{- end -}}

{{- define "tailorbird.serviceContainer" -}}
name: {{ include "tailorbird.serviceOf" . }}
image: {{ include "tailorbird.image" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- include "tailorbird.containerSecurityContext" . | nindent 2 }}
{{- include "tailorbird.env" . }}
ports:
  {{- if ne .name "trainer-worker" }}
  - name: grpc
    containerPort: {{ .values.ports.grpc }}
    protocol: TCP
  {{- with .values.ports.openai }}
  - name: openai
    containerPort: {{ . }}
    protocol: TCP
  {{- end }}
  {{- end }}
  - name: http
    containerPort: {{ .values.ports.http }}
    protocol: TCP
{{- include "tailorbird.probes" . | nindent 0 }}
{{- if .values.shutdown.preStopSeconds }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ .values.shutdown.preStopSeconds }}
{{- end }}
resources:
  {{- include "tailorbird.resources" . | nindent 2 }}
volumeMounts:
  {{- include "tailorbird.volumeMounts" . | trim | nindent 2 }}
{{- end -}}

{{/* The init step that compares the weights with baseModel.digest. Its memo of file hashes lies under
the data directory: the service does not hash them again. */}}
{{- define "tailorbird.digestContainer" -}}
name: base-digest
image: {{ include "tailorbird.image" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
# As the first process without tini, Python would never hear SIGTERM.
command: ["/usr/bin/tini", "--", "python", "-m", "tailorbird.cli", "base", "digest"]
securityContext:
  {{- include "tailorbird.containerSecurityContext" . | nindent 2 }}
{{- include "tailorbird.env" . }}
resources:
  {{- include "tailorbird.ownResources" . | nindent 2 }}
volumeMounts:
  {{- include "tailorbird.volumeMounts" . | trim | nindent 2 }}
{{- end -}}

{{- define "tailorbird.env" }}
envFrom:
  - configMapRef:
      name: {{ include "tailorbird.partName" . }}
  {{- with .root.Values.objectStore.existingSecret }}
  - secretRef:
      name: {{ . | quote }}
  {{- end }}
{{- $env := list }}
{{- if eq .name "serving" }}
{{- $env = append $env (dict "name" "TAILORBIRD_REPLICA" "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.name"))) }}
{{- else if .values.database.existingSecret }}
{{- $env = append $env (dict "name" "TAILORBIRD_DATABASE_URL" "valueFrom" (dict "secretKeyRef" (dict "name" .values.database.existingSecret "key" .values.database.key))) }}
{{- end }}
{{- with .root.Values.baseModel.huggingFace }}
{{- if and .id .tokenSecret.name }}
{{- $env = append $env (dict "name" "HF_TOKEN" "valueFrom" (dict "secretKeyRef" (dict "name" .tokenSecret.name "key" .tokenSecret.key))) }}
{{- end }}
{{- end }}
{{- with concat $env .values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tailorbird.probes" -}}
{{- $probes := .values.probes -}}
startupProbe:
  httpGet:
    path: /readyz
    port: http
  periodSeconds: {{ $probes.startup.periodSeconds }}
  timeoutSeconds: {{ $probes.readiness.timeoutSeconds }}
  failureThreshold: {{ divf $probes.startup.budgetSeconds $probes.startup.periodSeconds | ceil | int }}
livenessProbe:
  httpGet:
    path: /livez
    port: http
  {{- toYaml $probes.liveness | nindent 2 }}
readinessProbe:
  httpGet:
    path: /readyz
    port: http
  {{- toYaml $probes.readiness | nindent 2 }}
{{- end -}}

{{/* Seconds from the pod's deletion to its kill, as they add up. */}}
{{- define "tailorbird.shutdownSeconds" -}}
{{- with .values.shutdown -}}
{{- add .preStopSeconds (ceil .drainDelaySeconds | int) (ceil .graceSeconds | int) .marginSeconds -}}
{{- end -}}
{{- end -}}

{{- define "tailorbird.gracePeriod" -}}
{{- .values.shutdown.terminationGracePeriodSeconds | default (include "tailorbird.shutdownSeconds" .) | int -}}
{{- end -}}

{{/* `resources`, and a request of the node's disk for what the pod's folders there may take, so that the
scheduler counts them. */}}
{{- define "tailorbird.ownResources" -}}
{{- $resources := deepCopy .values.resources -}}
{{- $folders := list .values.temporary.sizeLimit -}}
{{- if and (ne .name "trainer") (eq .values.cache.type "emptyDir") -}}
{{- $folders = append $folders .values.cache.size -}}
{{- end -}}
{{- with .root.Values.baseModel.huggingFace -}}
{{- if and .id (not .cache.existingClaim) -}}
{{- $folders = append $folders .cache.sizeLimit -}}
{{- end -}}
{{- end -}}
{{- $disk := 0 -}}
{{- range $folders -}}
{{- $disk = add $disk (include "tailorbird.bytes" . | int64) -}}
{{- end -}}
{{- $requests := merge (default dict $resources.requests) (dict "ephemeral-storage" (toString $disk)) -}}
{{- toYaml (set $resources "requests" $requests) -}}
{{- end -}}

{{/* The same, and the devices of `gpu`. */}}
{{- define "tailorbird.resources" -}}
{{- $resources := include "tailorbird.ownResources" . | fromYaml -}}
{{- $gpu := .values.gpu -}}
{{- if eq $gpu.driver "devicePlugin" -}}
{{- $_ := set $resources "limits" (set (default dict $resources.limits) $gpu.resourceName ($gpu.count | int)) -}}
{{- else if eq $gpu.driver "dra" -}}
{{- $_ := set $resources "claims" (list (dict "name" "gpu")) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
