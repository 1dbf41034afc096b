{{/*
The settings of a part, from which both its environment and TAILORBIRD_VALUES_KEYS are made, so that
the two cannot differ: a YAML mapping of NAME → {value, key}, NAME without TAILORBIRD_, key the place
in values.yaml. Without a value it is set elsewhere (a Secret, the pod's own name).
*/}}
{{- define "tailorbird.settings" -}}
{{- $values := .root.Values -}}
{{- $settings := dict
  "DATA_DIR" (dict "value" "/var/lib/tailorbird")
  "OBJECT_STORE" (dict "value" $values.objectStore.url "key" "objectStore.url")
  "BASE_MODEL" (include "tailorbird.baseModel" .root | fromYaml)
  "PROFILE" (dict "value" $values.profile "key" "profile")
  "HOST" (dict "value" $values.bindAddress "key" "bindAddress")
  "PORT" (dict "value" .values.ports.grpc "key" (include "tailorbird.keyOf" (dict "part" . "key" "ports") | printf "%s.grpc"))
  "METRICS_PORT" (dict "value" .values.ports.http "key" (include "tailorbird.keyOf" (dict "part" . "key" "ports") | printf "%s.http"))
  "TOKENS_FILE" (dict "value" "/etc/tailorbird/tokens/tokens.json" "key" "auth.existingSecret")
  "DRAIN_DELAY" (dict "value" .values.shutdown.drainDelaySeconds "key" (include "tailorbird.keyOf" (dict "part" . "key" "shutdown") | printf "%s.drainDelaySeconds"))
  "SHUTDOWN_GRACE" (dict "value" .values.shutdown.graceSeconds "key" (include "tailorbird.keyOf" (dict "part" . "key" "shutdown") | printf "%s.graceSeconds"))
-}}
{{- with .values.ports.openai -}}
{{- $_ := set $settings "HTTP_PORT" (dict "value" . "key" (include "tailorbird.keyOf" (dict "part" $ "key" "ports") | printf "%s.openai")) -}}
{{- end -}}
{{- with $values.baseModel.name -}}
{{- $_ := set $settings "BASE_MODEL_NAME" (dict "value" . "key" "baseModel.name") -}}
{{- end -}}
{{- with $values.baseModel.digest -}}
{{- $_ := set $settings "BASE_MODEL_DIGEST" (dict "value" . "key" "baseModel.digest") -}}
{{- end -}}
{{- if $values.tls.existingSecret -}}
{{- $_ := set $settings "TLS_CERTIFICATE_FILE" (dict "value" "/etc/tailorbird/tls/tls.crt" "key" "tls.existingSecret") -}}
{{- $_ := set $settings "TLS_KEY_FILE" (dict "value" "/etc/tailorbird/tls/tls.key" "key" "tls.existingSecret") -}}
{{- end -}}
{{- if eq .name "serving" -}}
{{- $_ := set $settings "REPLICA" dict -}}
{{- else if .values.database.existingSecret -}}
{{- $_ := set $settings "DATABASE_URL" (dict "key" "trainer.database.existingSecret") -}}
{{- end -}}
{{- if ne .name (include "tailorbird.serviceOf" .) -}}
{{- $_ := set $settings "ROLE" (dict "value" (trimPrefix "trainer-" .name) "key" "trainer.split.enabled") -}}
{{- end -}}
{{- if and (ne .name "serving") .values.ray.address -}}
{{- $_ := set $settings "RAY_ADDRESS" (dict "value" .values.ray.address "key" "trainer.ray.address") -}}
{{- end -}}
{{- with .values.moreBaseModels -}}
{{- $_ := set $settings "MORE_BASE_MODELS" (include "tailorbird.moreBaseModels" $ | fromYaml) -}}
{{- end -}}
{{- range $key, $value := .values.config -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $settings ($key | snakecase | upper) (dict "value" $value "key" (printf "%s.config.%s" (include "tailorbird.serviceOf" $) $key)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{- define "tailorbird.baseModel" -}}
{{- $base := .Values.baseModel -}}
{{- if $base.huggingFace.id -}}
{{- toYaml (dict "value" $base.huggingFace.id "key" "baseModel.huggingFace.id") -}}
{{- else -}}
{{- $source := ternary "claim" "image" (ne $base.claim.existingClaim "") -}}
{{- $path := get (get $base $source) "path" -}}
{{- toYaml (dict "value" (clean (printf "/base-model/%s" $path)) "key" (printf "baseModel.%s" $source)) -}}
{{- end -}}
{{- end -}}

{{/* The trainer's further bases, as JSON: folders beside the first one, or ids of the hub. */}}
{{- define "tailorbird.moreBaseModels" -}}
{{- $bases := list -}}
{{- $folders := not .root.Values.baseModel.huggingFace.id -}}
{{- range .values.moreBaseModels -}}
{{- $model := ternary (printf "/base-model/%s" .model) .model $folders -}}
{{- $bases = append $bases (merge (dict "model" $model) .) -}}
{{- end -}}
{{- toYaml (dict "value" (toJson $bases) "key" "trainer.moreBaseModels") -}}
{{- end -}}

{{/* A value as the environment has it. YAML's numbers are floats here: 1e+10 is no integer. */}}
{{- define "tailorbird.text" -}}
{{- if kindIs "slice" . -}}
{{- join "," . -}}
{{- else if kindIs "map" . -}}
{{- toJson . -}}
{{- else if kindIs "float64" . -}}
{{- if eq . (floor .) -}}{{- printf "%d" (int64 .) -}}{{- else -}}{{- toString . -}}{{- end -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* Data of the ConfigMap: every setting that is no secret, where each was set, and what else. */}}
{{- define "tailorbird.environment" -}}
{{- $environment := deepCopy .root.Values.objectStore.env -}}
{{- $keys := list -}}
{{- range $name, $setting := include "tailorbird.settings" . | fromYaml -}}
{{- if hasKey $setting "value" -}}
{{- $_ := set $environment (printf "TAILORBIRD_%s" $name) (include "tailorbird.text" $setting.value) -}}
{{- end -}}
{{- with $setting.key -}}
{{- $keys = append $keys (printf "%s=%s" $name .) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $environment "TAILORBIRD_VALUES_KEYS" (join "," $keys) -}}
{{- with .root.Values.baseModel.huggingFace -}}
{{- if .id -}}
{{- $_ := set $environment "HF_HOME" "/var/cache/huggingface" -}}
{{- if .offline -}}{{- $_ := set $environment "HF_HUB_OFFLINE" "1" -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := $environment }}
{{ $name }}: {{ $value | quote }}
{{- end -}}
{{- end -}}
