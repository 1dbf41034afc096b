{{/* What the traffic templates share, and what they refuse. */}}

{{- define "tailorbird.pickerService" -}}
{{- .Values.traffic.picker.service.name | default (printf "%s-picker" (include "tailorbird.fullname" .)) -}}
{{- end -}}

{{- define "tailorbird.problems.traffic" -}}
{{- $problems := list -}}
{{- $route := .Values.traffic.route -}}
{{- $pool := .Values.traffic.inferencePool -}}
{{- $picker := .Values.traffic.picker -}}
{{- if and $route.enabled (not $route.parentRefs) -}}
{{- $problems = append $problems "traffic.route.parentRefs: names no Gateway; a route without one takes no calls" -}}
{{- end -}}
{{- if and $pool.enabled $route.enabled (ne $route.kind "HTTPRoute") -}}
{{- $problems = append $problems (printf "traffic.route.kind: is %s, but gateways send to an InferencePool from an HTTPRoute only" $route.kind) -}}
{{- end -}}
{{- if and $pool.enabled .Values.tls.existingSecret -}}
{{- $problems = append $problems "traffic.inferencePool.enabled: a gateway speaks plaintext to the pods of an InferencePool, and tls.existingSecret has them demand TLS; name a mesh instead" -}}
{{- end -}}
{{- if and $pool.enabled (eq $pool.api "openai") (not .Values.serving.ports.openai) -}}
{{- $problems = append $problems "traffic.inferencePool.api: is openai, but serving.ports.openai is not set, so no pod speaks it" -}}
{{- end -}}
{{- if and $pool.enabled (not $picker.create) (not $picker.service.name) -}}
{{- $problems = append $problems "traffic.picker.service.name: is empty; traffic.inferencePool needs an endpoint picker: name its Service, or set traffic.picker.create" -}}
{{- end -}}
{{- if $picker.create -}}
{{- if not $pool.enabled -}}
{{- $problems = append $problems "traffic.picker.create: the picker picks from the pool that traffic.inferencePool.enabled makes" -}}
{{- end -}}
{{- if not $picker.image -}}
{{- $problems = append $problems "traffic.picker.image: is empty; traffic.picker.create needs the endpoint picker's image" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not $picker.apiServer.to) -}}
{{- $problems = append $problems "traffic.picker.apiServer.to: is empty; behind networkPolicy the picker could not watch the pods it picks from" -}}
{{- end -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}
