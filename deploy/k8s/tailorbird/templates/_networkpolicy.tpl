{{- define "tailorbird.networkPolicy" -}}
{{- $policy := .root.Values.networkPolicy -}}
{{- if $policy.enabled -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "tailorbird.metadata" (dict "part" . "name" (include "tailorbird.partName" .)) | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "tailorbird.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  {{- $called := ne .name "trainer-worker" }}
  ingress:
    {{- if not (or $called $policy.ingress.metrics $policy.ingress.extra) }} []{{ end }}
    {{- if $called }}
    - from:
        - podSelector:
            matchLabels:
              {{- include "tailorbird.selectorLabels" (dict "root" .root "name" "test") | nindent 14 }}
        {{- if .root.Values.console.enabled }}
        - podSelector:
            matchLabels:
              {{- include "tailorbird.selectorLabels" (dict "root" .root "name" "console") | nindent 14 }}
        {{- end }}
        {{- with $policy.ingress.clients }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - port: {{ .values.ports.grpc }}
          protocol: TCP
        {{- with .values.ports.openai }}
        - port: {{ . }}
          protocol: TCP
        {{- end }}
    {{- end }}
    {{- with $policy.ingress.metrics }}
    - from:
        {{- toYaml . | nindent 8 }}
      ports:
        - port: {{ $.values.ports.http }}
          protocol: TCP
    {{- end }}
    {{- with $policy.ingress.extra }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  egress:
    {{- $openings := list (include "tailorbird.egress" (dict "rule" $policy.egress.dns "protocols" (list "UDP" "TCP"))) }}
    {{- if not (include "tailorbird.fileStore" .root) }}
    {{- $openings = append $openings (include "tailorbird.egress" (dict "rule" $policy.egress.objectStore)) }}
    {{- end }}
    {{- if and (ne .name "serving") .root.Values.trainer.database.existingSecret }}
    {{- $openings = append $openings (include "tailorbird.egress" (dict "rule" $policy.egress.database)) }}
    {{- end }}
    {{- if and (has .name (list "trainer" "trainer-worker")) .root.Values.trainer.ray.address }}
    {{- $openings = append $openings (include "tailorbird.egress" (dict "rule" $policy.egress.ray)) }}
    {{- end }}
    {{- with .root.Values.baseModel.huggingFace }}
    {{- if and .id (not .offline) }}
    {{- $openings = append $openings (include "tailorbird.egress" (dict "rule" $policy.egress.hub)) }}
    {{- end }}
    {{- end }}
    {{- range compact $openings }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with $policy.egress.extra }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
{{- end -}}

{{/* One opening. Without peers it is none: an empty `to` would mean everywhere. */}}
{{- define "tailorbird.egress" -}}
{{- if .rule.to -}}
- to:
    {{- toYaml .rule.to | nindent 4 }}
  ports:
    {{- $protocols := .protocols | default (list "TCP") }}
    {{- range $port := .rule.ports }}
    {{- range $protocols }}
    - port: {{ $port }}
      protocol: {{ . }}
    {{- end }}
    {{- end }}
{{- end -}}
{{- end -}}
