{{/*
Names, labels and images. Templates of one service are given a "part":
(dict "root" $ "name" "trainer" "values" .Values.trainer).
*/}}

{{- define "tailorbird.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end -}}

{{- define "tailorbird.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- include "tailorbird.short" .Values.fullnameOverride -}}
{{- else -}}
{{- $name := include "tailorbird.name" . -}}
{{- include "tailorbird.short" (ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name)) -}}
{{- end -}}
{{- end -}}

{{/* At most 40 characters: "-serving-headless" and a revision's hash still fit into a label. What is cut
off leaves a hash, which keeps names apart that end differently. */}}
{{- define "tailorbird.short" -}}
{{- if gt (len .) 40 -}}
{{- printf "%s-%s" (trunc 31 . | trimSuffix "-") (sha256sum . | trunc 8) -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- define "tailorbird.partName" -}}
{{- printf "%s-%s" (include "tailorbird.fullname" .root) .name -}}
{{- end -}}

{{/* What selectors hold: it can never change. */}}
{{- define "tailorbird.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tailorbird.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "tailorbird.labels" -}}
{{- $own := dict
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service
  "app.kubernetes.io/part-of" "tailorbird"
-}}
{{- toYaml (mergeOverwrite (deepCopy .root.Values.commonLabels) $own (include "tailorbird.selectorLabels" . | fromYaml)) -}}
{{- end -}}

{{/* metadata of an object: (dict "part" $part "name" NAME "annotations" DICT "labels" DICT) */}}
{{- define "tailorbird.metadata" -}}
name: {{ .name | quote }}
namespace: {{ .part.root.Release.Namespace | quote }}
labels:
  {{- toYaml (mergeOverwrite (deepCopy (.labels | default dict)) (include "tailorbird.labels" .part | fromYaml)) | nindent 2 }}
{{- with mergeOverwrite (deepCopy .part.root.Values.commonAnnotations) (.annotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tailorbird.image" -}}
{{- $image := .values.image -}}
{{- $tag := coalesce $image.tag .root.Values.image.tag .root.Chart.AppVersion -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end -}}
{{ $image.repository }}:{{ $tag }}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{- define "tailorbird.serviceAccountName" -}}
{{- default (include "tailorbird.partName" (dict "root" .root "name" (include "tailorbird.serviceOf" .))) .values.serviceAccount.name -}}
{{- end -}}

{{- define "tailorbird.appProtocol" -}}
{{- .values.service.appProtocol | default (ternary "https" "kubernetes.io/h2c" (ne .root.Values.tls.existingSecret "")) -}}
{{- end -}}

{{/* Where clients dial a part inside the cluster; the certificate names this host. */}}
{{- define "tailorbird.host" -}}
{{- printf "%s.%s.svc" (include "tailorbird.partName" .) .root.Release.Namespace -}}
{{- end -}}

{{- define "tailorbird.address" -}}
{{- printf "%s:%d" (include "tailorbird.host" .) (int .values.service.port) -}}
{{- end -}}
